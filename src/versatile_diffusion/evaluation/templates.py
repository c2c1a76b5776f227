"""The HTML of evaluation reports, as jinja2 templates; values are escaped."""

from __future__ import annotations

from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

TEMPLATES = {
    "page": """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .85rem } caption { text-align: left; color: #666 }
td, th { padding: .25rem .6rem; border-top: 1px solid #ddd; text-align: left; vertical-align: top }
.small, small { color: #666; font-size: .85em } pre { font-size: .8rem; background: #f6f6f6; padding: .6rem }
img { image-rendering: pixelated; max-width: 100% } svg { margin: 0 1rem 1rem 0; vertical-align: top }
</style></head>
<body><h1>{{ title }}</h1>
{{ body }}
</body></html>
""",
    "head": """<p>Model {{ model.name }} ({{ model.hash }}), guidance scales {{ guidance }}, {{ library }},
{{ seconds }} s. Brackets: 95 % confidence interval.</p>
{%- for said in remarks %}<p>{{ said }}.</p>{% endfor %}{{ judge }}
<details><summary>Protocol {{ protocol.name }}</summary><pre>{{ settings }}</pre></details>""",
    "judge": """{% if judge %}<table>
<caption>Accuracy of the judge (independent of the model) on all real images</caption>
{%- for split, row in judge.items() %}
<tr><td>{{ split }}</td>
{%- for name, value in row.items() %}<td>{{ name }} {{ "%.1f" % value }} %</td>{% endfor %}</tr>
{%- endfor %}
</table>{% else %}<p>No judge.</p>{% endif %}""",
    "metrics": """<table><tr><th></th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{%- for way, cells in rows.items() %}
<tr><th>{{ way }}</th>
{%- for cell in cells %}<td>
{%- if cell %}{{ cell.number }} <small>{{ cell.remark }}</small>
{%- if cell.share %}<br><small>{{ cell.share }} of real</small>{% endif %}{% endif %}</td>{% endfor %}</tr>
{%- endfor %}
</table>""",
    "rows": """<table>{% if caption %}<caption>{{ caption }}</caption>{% endif %}
{%- for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}
</table>""",
    "sheet": """<h3>{{ title }}</h3>{% if note %}<p class="small">{{ note }}</p>{% endif %}
{%- if file %}<img src="{{ file | urlencode }}" alt="">{% else %}{{ table }}{% endif %}""",
}
_ENVIRONMENT = Environment(loader=DictLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)


def render(template: str, **values: Any) -> Markup:
    """Fill in one of `TEMPLATES`; the result can be a value of another one."""
    return Markup(_ENVIRONMENT.get_template(template).render(values))  # nosec B704 # rendered with escaping
