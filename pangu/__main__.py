from pangu.cli import main

main()
