"""Train on a folder with one folder of images per class, then name a picture. Usage: python train_and_predict.py FOLDER PICTURE"""

import sys

import swinkit

folder, picture = sys.argv[1:3]
result = swinkit.train(folder, epochs=4, batch_size=8, model="swin_pico_patch2_window4_32")
print(f"{100 * result.scores.top1:.0f} % of the {result.scored_on} images are right")
print(swinkit.Predictor(result.run)(picture))
