"""A cluster on one machine: real HDFS, YARN and Spark daemons on 127.0.0.1, for the tests and to try things on."""
