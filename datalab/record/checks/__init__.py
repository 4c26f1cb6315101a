"""What is asked of a record afterwards: is it whole, is it what its rows give, and where do two of them differ?"""
