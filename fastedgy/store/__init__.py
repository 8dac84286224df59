"""The only room that speaks SQL about tasks: a statement stands beside the function that runs it.

Every function takes an asyncpg connection first, and the names of the tables second. All of them
are single statements in autocommit unless they say otherwise, so they run at READ COMMITTED.
"""
