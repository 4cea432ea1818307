"""Who is a false negative?"""
