"""Self-contained HTML pages: one record in, one file out that can be mailed, printed and read without a network.

    page.py        what every page shares: escaping, stylesheet, content security policy
    words.py       numbers into words
    svg.py         tags, scales, ticks
    lines.py       line charts with intervals
    rows.py        dot-and-whisker rows and bars
    card_charts.py, card_words.py, card_page.py     a direction's card

Pages hold no script and ask for nothing from anywhere. Text written by models is hostile: it reaches a page only
through `page.clean` and an escape, never as a tag, an attribute or a style.

Nothing in this package knows how any of the numbers were measured.
"""
