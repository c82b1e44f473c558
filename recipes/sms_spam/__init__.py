"""Is a text message spam?"""
