"""Ratings of films, found in tweets: which films does a user rate next, and how?"""
