"""A page on which stage maps are looked at: `data` says what is on it, `cells` packs the maps, `page` makes one file.

The page itself is `viewer.html`, `viewer.css` and three scripts, in the order in which they are read: `cells.js` (the
numbers), `paint.js` (the pictures), `viewer.js` (the controls). A server may send them as they are.
"""
