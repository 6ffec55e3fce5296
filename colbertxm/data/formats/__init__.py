"""Files in the field's formats, read line by line in bounded memory: rows, or an error that names file and line.

`detect(path)` says what a file is; each module reads one family. Every reader takes `on_error`: "raise" stops at the
first bad line, "count" leaves bad lines out, counts them by reason and says so in one line at the end. What a reader
returns is an iterator whose `skipped` holds those counts. A file that ends early is an error under both.
"""
