"""The primary behind Sentinels, in a Cluster, behind TLS, and on an older server: real ones, started here."""
