"""The steps of build_sample.py: fetch the packages, read the concepts, match and draw the icons, write the table."""
