"""`python -m crossrec` is the command `crossrec`, in the form that torchrun and accelerate can start."""

from crossrec.cli import main

if __name__ == "__main__":
    main()
