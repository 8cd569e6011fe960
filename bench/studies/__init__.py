"""What the studies came to, and what the paper's size would cost: `python -m bench.studies`; see `__main__`.

`record`     a finished run folder -> what is kept of it, in docs/studies.json
`claims`     what the paper claims of each study, declared, and the rule that judges it by the intervals
`document`   docs/studies.md: paper, photographs and rendered world side by side
`headers`    the lines `# Cost:` and `# Result:` of the sweeps' files
`costs`      the estimate of the sweeps of the paper's size
`figures`    the figures of reports that README shows
"""
