from refusion.cli import main

main()
