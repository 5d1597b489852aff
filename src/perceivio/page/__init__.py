"""The page that `perceivio serve` shows, and its JSON API (docs/serve.md).

    limits.py     what is taken, and the clear words for what is not
    turns.py      a thread for each queue; memory is given back
    workspace.py  the server's own folder: what came up, what was made, when it goes
    answers.py    what page and API do, in files of that folder
    drawing.py    figures and classes as HTML
    gate.py       which requests are let in, with which headers answers leave
    layout.py     the page in Gradio, and the functions of the API
    server.py     all of it behind one port

Nothing here is imported unless the verb is run: Gradio takes seconds to import.
"""
