"""A folder name with everything that a file system allows, and that some library takes for something else."""

PUNCTUATION = "!\"#$%&'()*+,-.:;<=>?@[\\]^_`{|}~"
NAME = f" {PUNCTUATION} 我的 数据 #1 ;a %20 %(here)s ${{HOME}} $HOME [b] ::1 😀 "
