"""One job on many machines: what needs no Ray (journal, window, groups, merge), and the one file that does."""
