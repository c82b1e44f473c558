"""The Free Spoken Digit Dataset: 0 to 9, each spoken 50 times by each of six people; 3,000 recordings.

They take 0.14 to 2.28 s. An archive or a folder has them as `{digit}_{speaker}_{index}.wav`, PCM of 16 bits, mono, 8
kHz, all with a header of 44 bytes. A row has the first second of the sound, with zeros behind it; 20 recordings are
longer, most of them by silence.

The recordings of index 0 to 4 are the test split, as the source says; of the others a tenth, by the hash of the name,
is val. `held_out` makes the harder test: all of one speaker, with all of another one as val.

Source: Jackson et al., "Free Spoken Digit Dataset", CC BY-SA 4.0.
"""

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read import files
from penstock.recipe import Rule, Split
from penstock.schema import Field, Schema

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
NAME = r"(?:^|/)([0-9])_([a-z]+)_([0-9]{1,4})\.wav$"
NUM_SAMPLES, SAMPLE_BYTES, HEADER_BYTES = 8000, 2, 44
# From byte 20: PCM, 1 channel, 8,000 samples and 16,000 bytes a second, 2 bytes and 16 bits a sample, and "data".
FORMAT = "01000100401F0000803E00000200100064617461"
LITTLE_ENDIAN = ", ".join(f"substring(content, {i}, 1)" for i in (44, 43, 42, 41))  # how many bytes of samples follow

schema = Schema(
    (Field("id", "string"), Field("samples", "int16", (NUM_SAMPLES,)), Field("digit", "int64")),
    key="id",
    label="digit",
)
split = Split({"train": 0.9, "val": 0.1}, source="source_split")
rules = (
    Rule("format", f"substring(content, 21, 20) = X'{FORMAT}'", "the sound must be PCM of 16 bits, mono, 8 kHz"),
    Rule("length", f"conv(hex(concat({LITTLE_ENDIAN})), 16, 10) = length(content) - 44", "only samples may follow"),
    Rule("name", "digit is not null", "the name must be {digit}_{speaker}_{index}.wav", label=True),
)


def read(spark: SparkSession, raw_url: str, labelled: bool) -> DataFrame:
    parts = {name: F.regexp_extract("path", NAME, i) for i, name in enumerate(("digit", "speaker", "index"), 1)}
    return files(spark, raw_url, "wav").withColumns({name: F.nullif(part, F.lit("")) for name, part in parts.items()})


def clean(df: DataFrame) -> DataFrame:
    return cleaned(df, F.when(F.col("index").cast("int") < 5, "test"))


def held_out(df: DataFrame, speaker: str) -> DataFrame:
    """As `clean`, with this speaker as test rows and the one who follows as val."""
    follows = SPEAKERS[(SPEAKERS.index(speaker) + 1) % len(SPEAKERS)]
    said = F.col("speaker")
    return cleaned(df, F.when(said == speaker, "test").when(said == follows, "val").otherwise("train"))


def cleaned(df: DataFrame, source_split: Column) -> DataFrame:
    size = NUM_SAMPLES * SAMPLE_BYTES
    return df.withColumns(
        {
            "id": F.regexp_extract("path", r"([^/]*)\.[^.]*$", 1),
            "samples": F.rpad(F.substring("content", HEADER_BYTES + 1, size), size, F.unhex(F.lit("00"))),
            "digit": F.col("digit").cast("bigint"),
            "source_split": source_split,
        }
    )
