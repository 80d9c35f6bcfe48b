"""Tables, figures and a page from the directories of finished runs."""
