"""What several sections train: the trial that all share, and the tasks of the title, of DATA-LAB and of the scores."""
