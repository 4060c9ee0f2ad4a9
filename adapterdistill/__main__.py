"""`python -m adapterdistill`, which is also the entrypoint of an onboarding job."""

from adapterdistill.cli import main

if __name__ == "__main__":
    main()
