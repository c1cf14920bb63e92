"""Look at a run, or at many: python analyze.py run=FOLDER"""

from stockformer.programs.analyze import main

if __name__ == "__main__":
    main()
