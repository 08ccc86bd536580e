"""What happens around Trainer's steps."""
