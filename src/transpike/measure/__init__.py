"""What a converted network achieves and costs."""
