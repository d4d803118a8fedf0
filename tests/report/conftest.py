"""One fabricated table, its drawings and its page for all tests of the HTML report."""

from dataclasses import replace

import pytest
from fabricated import fabricated_table

from tta_bench.report.drawings import draw
from tta_bench.report.formats.html import write as html_page


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    return fabricated_table(tmp_path_factory.mktemp("results"), leave_out=[("tent", "A")])


@pytest.fixture(scope="session")
def drawn(table):
    return draw(table)


@pytest.fixture(scope="session")
def page(table, drawn):
    return html_page(replace(table, drawings=drawn))
