"""Best practices: keep tasks focused."""

# The text between the two lines is the guide's, to the letter.
# ruff: noqa
# fmt: off

from guide_app.services import create_user, resize_image, send_email

# From the guide:

# Good: Single responsibility
async def send_welcome_email(user_email: str):
    return send_email(user_email, "welcome_template")

# Avoid: Too many responsibilities
async def handle_new_user(user_data: dict):
    create_user(user_data)    # Database
    send_email(...)           # Email
    resize_image(...)         # Image processing
    # Too much!

# End of the guide's text.
