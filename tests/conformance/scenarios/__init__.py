"""What a user of the official client does, once for every endpoint; runs in that client's own environment."""
