"""The page at `/`: one template and its static files, behind a policy that runs no script but ours."""

from flask import Blueprint, Response, render_template

blueprint = Blueprint(
    "page", __name__, static_folder="static", static_url_path="/static", template_folder="templates"
)

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        # the browser itself refuses innerHTML and its kin: a generated text can only ever be text
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)


@blueprint.get("/")
def show() -> str:
    """The playground; everything on it comes from /v1, with the key that its user pastes."""
    return render_template("page.html")


@blueprint.after_request
def guard(response: Response) -> Response:
    """Forbid whatever the page does not need."""
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    # an upgrade of the stack shows at the next visit: the browser asks, and mostly hears 304
    response.headers["Cache-Control"] = "no-cache"
    return response
