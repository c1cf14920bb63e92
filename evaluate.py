"""Evaluate a trained model again, elsewhere, or several as one: python evaluate.py run=FOLDER"""

from stockformer.programs.evaluate import main

if __name__ == "__main__":
    main()
