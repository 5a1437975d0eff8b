"""What dreamforge and recover both need; it knows neither of them."""
