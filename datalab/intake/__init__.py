"""What people have, as rows a model can be trained on, or one line that says why not. It knows nothing of pruning.

``reading`` knows files and what else holds rows, ``features`` the kinds of columns and their encoders, ``examples``
what belongs to a row: its label, id, group, probabilities, and the clean rows that judge, ``portraits`` how a row
looks to a person.
"""
