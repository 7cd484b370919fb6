"""Self-contained HTML pages: one record in, one file out that can be mailed, printed and read without a network.

    page.py        what every page shares: escaping, stylesheet, content security policy
    words.py       numbers into words
    svg.py         tags, scales, ticks
    lines.py       line charts with intervals
    rows.py        dot-and-whisker rows and bars
    card_charts.py, card_words.py, card_page.py     a direction's card
    axis_data.py, axis_map.py, axis_words.py, axis_charts.py, axis_page.py, axis.js     the persona map
    scan_data.py, scan_counts.py, scan_words.py, scan_charts.py, scan_embed.py, scan_page.py, scan_page.js     a scan

Pages ask for nothing from anywhere. A card holds no script; what a page's own script reads comes as JSON from
`page.embed`, and it makes text nodes of it, never markup. Text written by models is hostile: it reaches a page only
through `page.clean` and an escape, never as a tag, an attribute or a style.

Nothing in this package knows how any of the numbers were measured.
"""
