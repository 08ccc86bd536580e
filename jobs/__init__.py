"""What a job is: its states, its row, its queue and its errors. Knows neither HTTP nor tensors."""
