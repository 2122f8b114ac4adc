"""The steps of an upload: download, analyse, render, call back."""
