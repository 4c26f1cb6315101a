"""The paper's arithmetic on its own printed figures: one file per topic, one interval arithmetic for all of them."""
