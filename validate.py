"""Check settings and data before an expensive run: python validate.py model.width=64"""

from stockformer.programs.validate import main

# Hydra's completion, from 1.4 on, wants to read @hydra.main in the file.
if __name__ == "__main__":
    main()
