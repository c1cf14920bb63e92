"""Train one model, or with -m a sweep: python train.py trainer.max_epoch=20"""

from stockformer.programs.train import main

# Hydra's completion, from 1.4 on, wants to read @hydra.main in the file.
if __name__ == "__main__":
    main()
