"""`make docs`: the documentation site, from the documents as they lie in the repository and from the code."""
