"""Digits drawn from stroke templates under a fully known SCM: the data set, its SCM, its renderer and measurements."""
