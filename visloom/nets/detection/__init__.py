"""Detection networks in parts that can be had one by one: features, proposals, pooled features, answers, losses.

Nothing here asks for the training mode: whoever composes the parts says what is computed. Losses come as a sum and
the count it was taken over, so that the divisor can span processes. Labels are 1..K, 0 is the background.
"""
