"""What a verification found, for people and for CI: a summary in the terminal, a page, JSON and JUnit XML."""

from vamc_compiler.verify.report.folder import write_report
from vamc_compiler.verify.report.html import render_html
from vamc_compiler.verify.report.junit import render_junit
from vamc_compiler.verify.report.summary import print_summary

__all__ = ["print_summary", "render_html", "render_junit", "write_report"]
