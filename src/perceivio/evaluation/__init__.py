"""How good a model is, beside what trivial answers and codecs make of the same clips.

    answers.py    a clip, and what somebody other than the model makes of it
    budget.py     how many numbers and bits of a clip may be kept
    baselines.py  trivial answers: means, silence, area pooling, zonal DCT
    codecs.py     H.264 and Opus at a number of bits
    figures.py    PSNR, SSIM, SNR and log-mel distance of one window
    sources.py    folders, files and indexes -> clips in a fixed order
    windows.py    the windows of a file: all, or some spread evenly
    files.py      what is found of one file
    examine.py    a file through the model and the baselines -> what is found of it
    journal.py    finished files, on disk: what an interrupted evaluation goes on from
    summary.py    means over files with their bootstrap intervals, and by class
    columns.py    what figures are called, and what each of them is
    result.py     what an evaluation says
    words.py      how that is told: rows of tables and remarks, for terminal and report
    draw.py       pictures of a window: the original, the model's answer, the baselines'
    report.py     JSON, CSV, pictures and a page to read
    run.py        an evaluation: from a model and clips to a folder
    plot.py       lines with points, drawn as SVG
    rates.py      latents in fewer bits against H.264 and Opus over their range
    rates_told.py how that is told: a table, a plot

Each imports only from those above it. See docs/evaluation.md.
"""
