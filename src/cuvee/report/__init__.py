"""The report: one offline HTML page and the summary for a terminal, made from plain values."""
