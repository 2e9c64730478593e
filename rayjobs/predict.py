"""A model on any number of videos: `python rayjobs/predict.py --model RUN --videos /data/videos`."""

from mmkd.cli import main
from mmkd.inference.job import predict_all

ABOUT = """What a trained RGB model says of videos, or of a split of a data set, as Parquet files.

--model names a model folder or a run; --videos video files, folders and patterns (in quotes), absolute or at s3:// or
gs://; --predict.split a split of data.folder instead. Each row is a clip: the likeliest classes of each head, the
probabilities of all, --predict.features what the classifiers see, or the error. --predict.window 2 --predict.hop 1
makes clips of 2 s, one a second, of long videos. A pool of actors decodes and answers, on GPUs with
--predict.num_gpus 1 --predict.num_cpus 8.

The same command again goes on where it stopped, or says that it is finished."""

if __name__ == "__main__":
    main("predict", ABOUT, predict_all)
