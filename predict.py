"""Forecast a day with a trained model: python predict.py run=FOLDER"""

from stockformer.programs.predict import main

if __name__ == "__main__":
    main()
