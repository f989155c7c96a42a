"""`report.html`: what a run made, lost and took, on one page that needs no other file.

gather.py reads what the page shows into the values of data.py, and page.py puts it together: sections.py has the run
and its account, latents.py the clips, their values and pictures. elements.py and charts.py make tables and drawings,
style.py has the colours, and advice.py says what to do about each reason of a reject.
"""
