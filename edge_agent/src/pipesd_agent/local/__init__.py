"""The draft model answering alone, labelled."""
