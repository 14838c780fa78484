"""Test broker files: each is read with the right figures, or rejected with a reason; nothing is guessed or lost."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.cli import main
from opslib.dashboard import pnl_details
from opslib.foundation.config import rules
from opslib.foundation.errors import ImportRefused
from opslib.trading.pnl import fills as book
from opslib.trading.pnl import reader
from opslib.trading.pnl.cells import moment, number
from opslib.trading.pnl.instruments import contract, is_share_symbol

D = Decimal
CASES = Path(__file__).parents[2] / "cases"
RULE = rules.load()["backtest_variance"]
SCHWAB = '"Date","Action","Symbol","Description","Quantity","Price","Fees & Comm","Amount"\n'
FIDELITY = (
    "\n\nBrokerage\n\nRun Date,Action,Symbol,Description,Type,Quantity,Price ($),Commission ($),Fees "
    "($),Accrued Interest ($),Amount ($),Settlement Date\n"
)
FIDELITY_END = (
    '\n\n"The data and information in this spreadsheet is provided to you solely for your use, '
    'and is not for distribution."\n\n"Brokerage services are provided by somebody, member of something."\n'
    "\nDate downloaded 03/09/2026 10:00 am\n"
)
ETRADE = (
    "For Account:,####-0000\n\nTransactionDate,TransactionType,SecurityType,Symbol,Quantity,Amount,"
    "Price,Commission,Description\n"
)
FLEX = (
    '"ClientAccountID","CurrencyPrimary","AssetClass","Symbol","Put/Call","Strike","Expiry","Multiplier",'
    '"TradeID","TradeDate","DateTime","Buy/Sell","Quantity","TradePrice","Proceeds","IBCommission",'
    '"IBCommissionCurrency","NetCash","Open/CloseIndicator","LevelOfDetail"\n'
)
ROBINHOOD = (
    '"Activity Date","Process Date","Settle Date","Instrument","Description","Trans Code","Quantity","Price","Amount"\n'
)
WEBULL = "Name,Symbol,Side,Status,Filled,Total Qty,Price,Avg Price,Time-in-Force,Placed Time,Filled Time\n"
PLAIN = "time,symbol,side,quantity,price"


def ops(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def figures_of(folder: Path, content: str | bytes, name: str = "f.csv") -> dict[str, Any]:
    """Return the results of a file, as JSON."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return pnl_details.of_file(folder / name, RULE).as_json()


def read(folder: Path, content: str | bytes, name: str = "f.csv") -> book.FillsFile:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return reader.read(folder / name)


def reasons(folder: Path, content: str | bytes, name: str = "f.csv") -> str:
    """Return every reason for a rejected row of a file."""
    try:
        found = read(folder, content, name)
    except ImportRefused as problem:
        return str(problem)
    assert found.refused, "nothing was refused"
    return "; ".join(reason for refused in found.refused for reason in refused.reasons)


def options(values: dict[str, Any]) -> tuple[Any, ...]:
    return values["trades"], values["gross_usd"], values["net_usd"], values["open"], values["rejected"]


def shares(values: dict[str, Any]) -> tuple[Any, ...]:
    return (
        values["stock"]["trades"],
        values["stock"]["gross_usd"],
        values["stock"]["net_usd"],
        values["open"],
        values["rejected"],
    )


@pytest.mark.parametrize(
    ("case", "of_options", "of_shares", "cash"),
    [
        ("b01_schwab_shares", (0, 0, 0), (1, 100, 98), 98),
        ("b02_schwab_option", (1, 80, 78.68), (0, 0, 0), 78.68),
        ("b04_sep_line", (1, 30, 28.76), (0, 0, 0), 28.76),
        ("b05_footer", (1, -13, -14.29), (0, 0, 0), -14.29),
        ("b06_date_and_time_apart", (0, 0, 0), (1, 100, 99.99), 99.99),
        ("ok_legacy_symbol_change", (1, -13, -14.29), (0, 0, 0), -14.29),
        ("ok_index_cash_and_assignment", (2, 201, 189.98), (0, 0, 0), -10115.02),
    ],
)
def test_case_files_give_the_right_figures(
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    case: str,
    of_options: tuple[float, ...],
    of_shares: tuple[float, ...],
    cash: float,
) -> None:
    """Each case file gives the right figures, both when read and when imported, with verdict ok."""
    path = str(CASES / f"{case}.csv")
    code, out, _ = ops("pnl", path, "-o", "json", capsys=capsys)
    values = json.loads(out)
    assert (code, values["verdict"]) == (0, "ok")
    assert ops("import", path, capsys=capsys)[0] == 0
    code, out, _ = ops("pnl", "-o", "json", capsys=capsys)
    for found in (values, json.loads(out)):
        assert (
            options(found)[:3] == of_options
            and shares(found)[:3] == of_shares
            and (found["cash"]["fills_usd"], found["rejected"]) == (cash, 0)
        )


def test_another_currency_is_rejected_by_every_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`ops pnl` and `ops import`, also with the file as backtest, exit with 70 and name the currency."""
    path = str(CASES / "b03_currency.csv")
    for command in (
        ["pnl", path],
        ["import", path],
        ["import", path, "--kind", "fills"],
        ["pnl", str(CASES / "b01_schwab_shares.csv"), "--backtest", path],
    ):
        code, out, err = ops(*command, capsys=capsys)
        assert (code, out) == (70, "") and "currency is 'GBX'" in err


@pytest.mark.slow
def test_the_panel_reports_shares_separately(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    With fills of shares only, the panel has no option trades, percentages or costs, and states the result of the
    shares.
    """
    assert ops("import", str(CASES / "b01_schwab_shares.csv"), capsys=capsys)[0] == 0
    _, out, _ = ops("status", "--as-of", "2026-03-04T16:00", "--window", "48h", "-o", "json", capsys=capsys)
    panel = json.loads(out)["panels"]["pnl"]
    assert (panel["source"], panel["trades"], panel["gross_pct"], panel["commission_usd"]) == ("fills", 0, None, 0)
    _, out, _ = ops("status", "--as-of", "2026-03-04T16:00", "--window", "48h", capsys=capsys)
    assert "1 round trip of shares; gross $100.00, costs $2.00, net $98.00" in out


@pytest.mark.parametrize(
    "symbol",
    [
        "AAPL  251219C00150000",
        "AAPL251219C00150000",
        "O:AAPL251219C00150000",
        ".AAPL251219C150",
        "-AAPL251219C150",
        " -AAPL251219C150.0",
        "AAPL_121925C150",
        "AAPL 12/19/2025 150.00 C",
        "AAPL 12/19/25 150 Call",
        "AAPL 12/19/2025 Call $150.00",
        "AAPL Dec 19 '25 $150 Call",
        "AAPL 19DEC25 150 C",
        "AAPL 19-Dec-2025 150 CALL",
        "AAPL Dec 19, 2025 150.00 Call",
        "AAPL 2025-12-19 150 C",
        "AAPL 20251219 150 C",
        "AAPL 150 C 12/19/2025",
        "CALL (AAPL) APPLE INC DEC 19 25 $150 (100 SHS)",
        "Option Expiration for AAPL 12/19/2025 Call $150.00",
    ],
)
def test_an_option_in_any_spelling(tmp_path: Path, symbol: str) -> None:
    """Each spelling names the same contract, with a multiplier of 100."""
    found = contract(symbol)
    assert found is not None and found.symbol == "AAPL 251219C00150000"
    values = read(tmp_path, f'{PLAIN}\n2025-12-01T10:00,"{symbol}",buy,1,2.50\n')
    assert [(f.instrument, f.symbol, f.value, f.strike, f.right) for f in values.fills] == [
        ("option", "AAPL 251219C00150000", -250, 150, "C")
    ]


@pytest.mark.parametrize("symbol", ["AAPL", "BRK.B", "BRK/B", "F", "GOOGL", "BF-B"])
def test_a_plain_symbol_means_shares(tmp_path: Path, symbol: str) -> None:
    """
    A symbol that does not name an option is shares, with a multiplier of 1 and without a note, also in a file of round
    trips.
    """
    found = read(tmp_path, f"{PLAIN}\n2025-12-01T10:00,{symbol},buy,100,2.50\n")
    assert [(f.instrument, f.value, f.multiplier) for f in found.fills] == [("stock", -250, 1)] and not found.notes
    trip = read(
        tmp_path,
        f"id,entry_time,exit_time,symbol,entry_price,exit_price,quantity\n1,2025-12-01T10:00,2025-12-01T11:00,"
        f"{symbol},190,191,100\n",
    )
    assert [(f.instrument, f.value) for f in trip.fills] == [("stock", -19000), ("stock", 19100)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("AAPL Dec 25 150 Call,buy,1,2,", "seems to name an option"),
        ("XYZ C100,buy,1,2,", "seems to name an option"),
        ("SPX,buy,1,2,", "an index, which has no shares"),
        ("BTC-USD,buy,1,2,", "a symbol of shares such as AAPL"),
        ("EUR.USD,buy,1,2,", "a symbol of shares"),
        ("ESZ5,buy,1,2,", "a symbol of shares"),
        ("912796XX1,buy,1,2,", "a symbol of shares"),
        ("/ESZ5,buy,1,2,", "its own multiplier"),
        ("AAPL7 251219C00150000,buy,1,2,", "AAPL7 is a mini or adjusted contract"),
        ("BTC,buy,1,2,Crypto", "'crypto'; stock or option was expected"),
        ("AAA,buy,1,2,Bond", "'bond'; stock or option"),
        ("AAA,buy,1,2,Wombat", "'wombat'; stock or option"),
        ("AAA,buy,1,2,Mutual Fund", "'mutual fund'"),
        ("AAPL 251219C00150000,buy,1,2,Stock", "says shares, but the row names an option"),
    ],
)
def test_other_instruments_are_rejected(tmp_path: Path, row: str, said: str) -> None:
    """A row that is neither shares nor an option is rejected with its reason; the other row is read."""
    content = f"{PLAIN},asset class\n2025-12-01T10:00,AAA,buy,1,2,stock\n2025-12-01T10:00,{row}\n"
    assert said in reasons(tmp_path, content) and len(read(tmp_path, content).fills) == 1


@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        ("asset type", "Option"),
        ("Security Type", "OPTN"),
        ("AssetClass", "OPT"),
        ("multiplier", "100"),
        ("Put/Call,Strike,Expiry", "C,5,20251219"),
        ("Type,Strike,Exp", "CALL,5,19 DEC 25"),
    ],
)
def test_an_option_is_recognised_by_its_columns(tmp_path: Path, columns: str, cells: str) -> None:
    """A type, a multiplier, or strike and expiry beside the underlying make a row an option."""
    found = read(tmp_path, f"{PLAIN},{columns}\n2025-12-01T10:00,AAA,buy,1,2,{cells}\n")
    assert [(f.instrument, f.value) for f in found.fills] == [("option", -200)]
    assert found.fills[0].symbol == ("AAA 251219C00005000" if "Strike" in columns else "AAA")


SHARES = (
    SCHWAB + '"03/17/2026","Sell","AAA","ALPHA CORP","100","$51.00","{0}","{1}"\n"03/16/2026","Buy","AAA","ALPHA '
    'CORP","100","$50.00","$1.00","-$5001.00"\n'
)


@pytest.mark.parametrize(
    ("fee", "amount", "agrees"),
    [
        ("$1.00", "$5099.00", True),
        ("$1.00", "5,099.00", True),
        ("($1.00)", "$5099.00", True),
        ("-1", "5099", True),
        ("$1.00", "$5100.00", True),
        ("$1.00", "$5098.00", False),
        ("$1.00", "$50.99", False),
        ("$1.00", "$509900.00", False),
        ("$1.00", "-$5099.00", False),
        ("$1.00", "($5,099.00)", False),
        ("$1.00", "5099.00-", False),
        ("$1.00", "5099.03", False),
        ("", "$5099.00", False),
        ("", "$5100.00", True),
        ("$1.00", "0", False),
        ("$1.00", "", True),
    ],
)
def test_a_row_that_contradicts_its_cash_is_rejected(tmp_path: Path, fee: str, amount: str, agrees: bool) -> None:
    """
    The cash must equal quantity × price, before or after costs, to the cent and with its sign; otherwise the reason
    names both figures.
    """
    content = SHARES.format(fee, f"{amount}")
    if agrees:
        assert not read(tmp_path, content).refused
    else:
        said = reasons(tmp_path, content)
        assert "Amount is" in said and "amount to 5100.00" in said and len(read(tmp_path, content).fills) == 1


@pytest.mark.parametrize(
    ("head", "cells", "said"),
    [
        ("Net Amount", "-260.00", "Net Amount is -260.00, but 1 at 2.5 × 100 amount to -250.00"),
        ("Net Proceeds", "-25.00", "Net Proceeds is -25.00"),
        ("Total", "-2.50", "Total is -2.50"),
        ("Value", "250.00", ""),
        ("Value", "251.00", "Value is"),
        ("Proceeds,Commission", "-250.00,0.65", ""),
        ("Debit/Credit,Commission", "(250.65),0.65", ""),
        ("Net Cash,Commission", "-250.65,-0.65", ""),
        ("Cost,Commission", "250.65,0.65", ""),
        ("TradeMoney", "250.00", ""),
        ("Amount,Commission", "-250.60,0.65", "or -250.65 after costs of 0.65"),
        ("Debit,Credit", "250.00,", ""),
        ("Debit,Credit", ",250.00", "credit is 250.00"),
    ],
)
def test_every_cash_column_is_checked_against_the_price(tmp_path: Path, head: str, cells: str, said: str) -> None:
    """The check works under every name of the column; a column without signs is checked by its absolute value."""
    content = (
        f"{PLAIN},{head}\n2025-12-01T10:00,AAA 251219C00150000,buy,1,2.50,{cells}\n2025-12-02T10:00,AAA,"
        f"buy,1,2.50,{','.join('' for _ in head.split(','))}\n"
    )
    if said:
        assert said.lower() in reasons(tmp_path, content).lower()
    else:
        assert not read(tmp_path, content).refused


def test_a_mean_price_may_be_rounded(tmp_path: Path) -> None:
    """
    If the price is a rounded mean, the row's own cash counts. Whether it is before or after costs must be clear from
    another row without rounding, or the rows are rejected. A single row that does not fit is rejected.
    """
    head, buys = (
        f"{PLAIN},commission,amount\n",
        ["2025-12-01T10:00,AAA,buy,300,10.33,1.00,-3101.00\n", "2025-12-01T11:00,AAA,buy,300,10.33,1.00,-3099.50\n"],
    )
    assert "before or after costs of 1.00" in reasons(tmp_path, head + "".join(buys))
    found = read(tmp_path, head + "".join(buys) + "2025-12-02T10:00,AAA,sell,300,10.50,1.00,3149.00\n")
    assert [(f.value, f.total) for f in found.fills] == [
        (-3100, -3101),
        (D("-3098.5"), D("-3099.5")),
        (3150, 3149),
    ] and not found.refused
    assert "amount to -3099.00, or -3100.00 after costs" in reasons(
        tmp_path, head + buys[0] + "2025-12-02T10:00,AAA,sell,300,10.50,1.00,3149.00\n"
    )
    means = read(
        tmp_path,
        head + "2025-12-01T10:00,AAA,buy,300,10.3333,1.00,-3101.00\n2025-12-02T10:00,AAA,sell,300,10.50,1.00,3149.00\n",
    )
    assert [f.total for f in means.fills] == [-3101, 3149] and not means.refused


@pytest.mark.parametrize(
    "column",
    [
        "Fees & Comm",
        "Commission ($)",
        "Fees ($)",
        "Commission",
        "Commissions",
        "Comm/Fee",
        "Reg Fee",
        "Misc Fees",
        "Commissions & Fees",
        "SEC Fee",
        "Tax",
        "Brokerage",
    ],
)
@pytest.mark.parametrize("cost", ["1.25", "$1.25", "-1.25", "(1.25)"])
def test_costs_are_recognised_under_usual_names(tmp_path: Path, column: str, cost: str) -> None:
    """
    Both sides cost 1.25, whatever the sign (in Interactive Brokers' own column costs are negative and rebates
    positive).
    """
    cost = cost if column != "Comm/Fee" else "-1.25"
    found = figures_of(
        tmp_path, f"{PLAIN},{column}\n2025-12-01T10:00,AAA,buy,100,10,{cost}\n2025-12-02T10:00,AAA,sell,100,11,{cost}\n"
    )
    assert shares(found) == (1, 100, 97.5, 0, 0)


@pytest.mark.parametrize(
    "column",
    [
        "Platform Levy",
        "Routing Charges",
        "FooFee",
        "Local Tax",
        "Surcharge",
        "ExchangeCommission2",
        "GST",
        "Transaction Cost",
        "Costs",
    ],
)
def test_an_unrecognised_cost_column_is_never_ignored(tmp_path: Path, column: str) -> None:
    """
    A row with a cost in an unrecognised column is rejected with the column's name; a row in which it is 0 or blank is
    read.
    """
    content = (
        f"{PLAIN},commission,{column}\n2025-12-01T10:00,AAA,buy,1,10,0,0.30\n2025-12-01T10:00,AAA,buy,1,"
        f"10,0,\n2025-12-01T10:00,AAA,buy,1,10,0,0.00\n"
    )
    assert (
        column in reasons(tmp_path, content)
        and "looks like a cost" in reasons(tmp_path, content)
        and len(read(tmp_path, content).fills) == 2
    )


def test_text_in_a_cost_column_is_not_a_cost(tmp_path: Path) -> None:
    """Text without a figure is not a cost; a figure in another currency is one."""
    assert not read(tmp_path, f"{PLAIN},Tax Status\n2025-12-01T10:00,AAA,buy,1,10,exempt\n").refused
    assert "Routing Fee is €1" in reasons(tmp_path, f"{PLAIN},Routing Fee\n2025-12-01T10:00,AAA,buy,1,10,€1\n")


def test_every_column_of_fees_counts_once(tmp_path: Path) -> None:
    """Parts are added up; a total beside them is not added again, and is rejected if it is not their sum."""
    head = f"{PLAIN},commission,sec fee,orf,total fees\n"
    found = read(tmp_path, head + "2025-12-01T10:00,AAA,sell,1,10,1.00,0.02,0.03,1.05\n")
    assert [(f.commission, f.fees, f.total) for f in found.fills] == [(-1, D("-0.05"), D("8.95"))]
    assert "equal amounts were expected" in reasons(
        tmp_path, head + "2025-12-01T10:00,AAA,sell,1,10,1.00,0.02,0.03,2.00\n"
    )


@pytest.mark.parametrize(
    ("head", "cells", "said"),
    [
        ("currency", "GBX", "currency is 'GBX'"),
        ("Ccy", "EUR", "Ccy is 'EUR'"),
        ("CurrencyPrimary", "CAD", "CurrencyPrimary is 'CAD'"),
        ("Settlement Currency", "JPY", "Settlement Currency is 'JPY'"),
        ("commission", "£1", "'£1', in £"),
        ("commission", "1 EUR", "in EUR"),
        ("amount", "C$-2", "in C$"),
        ("amount (GBP)", "2", "is a column in GBP"),
        ("note [€]", "2", "is a column in €"),
    ],
)
def test_other_currencies_are_rejected(tmp_path: Path, head: str, cells: str, said: str) -> None:
    """The reason names the column; dollars are accepted in any spelling."""
    content = f"{PLAIN},{head}\n2025-12-01T10:00,AAA,buy,1,2,{cells}\n"
    assert said in reasons(tmp_path, content)
    for dollars in ("USD", "usd", "US$", "US Dollar", ""):
        assert not read(tmp_path, f"{PLAIN},currency\n2025-12-01T10:00,AAA,buy,1,2,{dollars}\n").refused


def test_only_rows_in_another_currency_are_rejected(tmp_path: Path) -> None:
    """A row in another currency is rejected; the other row is read."""
    content = f"{PLAIN},currency\n2025-12-01T10:00,AAA,buy,1,2,USD\n2025-12-01T10:00,VOD,buy,1,£2,GBP\n"
    found = read(tmp_path, content)
    assert (
        [f.symbol for f in found.fills] == ["AAA"]
        and found.refused[0].row == 3
        and "currency is 'GBP'" in str(found.refused[0].reasons)
        and "in £" in str(found.refused[0].reasons)
    )


def test_decimal_commas_are_rejected(tmp_path: Path) -> None:
    """If a file may use decimal commas, 1,234 is not read as a thousand either."""
    said = reasons(
        tmp_path, "date;symbol;side;quantity;price\n2026-01-05;AAA;buy;1;12,50\n2026-01-05;AAA;buy;1;1,234\n"
    )
    assert "price is '12,50'; this file may use decimal commas" in said
    with pytest.raises(ImportRefused):
        reader.read(tmp_path / "f.csv")
    assert "price is '1,234'; this file may" in reasons(
        tmp_path, "date;symbol;side;quantity;price\n2026-01-05;AAA;buy;1;1,234\n"
    )
    assert (
        read(tmp_path, "date;symbol;side;quantity;price\n2026-01-05;AAA;buy;1;1,234\n2026-01-05;AAA;buy;1;12.5\n")
        .fills[0]
        .value
        == -1234
    )
    assert read(tmp_path, 'date,symbol,side,quantity,price\n2026-01-05,AAA,buy,1,"1,234"\n').fills[0].value == -1234


def test_cells_quoted_as_formulas_are_read(tmp_path: Path) -> None:
    """A cell written as ="AAA" is read as AAA."""
    assert [
        (f.symbol, f.value) for f in read(tmp_path, f'{PLAIN}\n2026-01-05,"=""AAA""",buy,1,"=""2.5"""\n').fills
    ] == [("AAA", D("-2.5"))]


ROWS = ["2026-03-17 10:00:00,AAA,buy,100,10.00,1.00", "2026-03-17 11:00:00,AAA,sell,100,11.00,1.00"]
HEAD = f"{PLAIN},commission"


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(["sep=,", HEAD, *ROWS]),
        "\r\n".join(["sep=;", *(line.replace(",", ";") for line in [HEAD, *ROWS])]),
        '"sep=\t"\n' + "\n".join([HEAD, *ROWS]).replace(",", "\t"),
        "SEP=|\n" + "\n".join([HEAD, *ROWS]).replace(",", "|"),
        "\n".join([HEAD, *ROWS]).replace(",", "\t"),
        "\n".join([HEAD, *ROWS]).replace(",", "|"),
        "\n".join(["Account: 1, main", "From 01/01/2026 to 03/31/2026", "", HEAD, *ROWS]),
        "\n".join(["Trades;all", *(line.replace(",", ";") for line in [HEAD, *ROWS])]),
        "\n".join([HEAD, *ROWS, "", "***END OF FILE***"]),
        "\n".join([HEAD, *ROWS, "Total,,,,,2.00"]),
        "\n".join([HEAD, *ROWS, "Grand Total,,,,,$2.00", '"This is no advice, and not a tax document."']),
        "\n".join([HEAD, *ROWS, "End of report"]),
        "\n".join([HEAD, *ROWS, "Please note, this is no advice, ask somebody"]),
        "\n".join([HEAD, *ROWS, '"Transactions Total","","","","","$198.00"']),
        "\n".join([HEAD, ROWS[0], HEAD, ROWS[1]]),
        "\n".join([HEAD, *ROWS, "Total,,,200,21.00,2.00"]),
        "\n".join([HEAD, *ROWS, ",,,,,2.00"]),
        "\n".join(
            [
                HEAD,
                *ROWS,
                "Page 1 of 1",
                "# made by x, v1.2",
                "Number of trades,2",
                "Generated: ,2026-03-18",
                "---------",
            ]
        ),
        "\n".join([HEAD, ROWS[0], "Page 1 of 2", ROWS[1], "Page 2 of 2"]),
        "\n".join(["Opening balance,1000.00", HEAD, *ROWS, "Closing balance,1198.00"]),
        "\n".join([HEAD, *ROWS, '"Please note: past results say nothing, whatever they were in 2025."']),
    ],
    ids=range(21),
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_preambles_footers_and_separators(tmp_path: Path, content: str, encoding: str) -> None:
    """Lines that are not rows are named and skipped; figures and verdict are as without them."""
    found = figures_of(tmp_path, content.encode(encoding))
    assert (found["verdict"], shares(found)) == ("ok", (1, 100, 98, 0, 0))
    assert reader.is_fills(content)
    if "no advice" in content or "Total" in content or "END" in content:
        assert any("that are remarks or totals are skipped" in note for note in found["notes"])
    if content.startswith(("Account", "Trades;")):
        assert any("before the header are skipped: line 1" in note for note in found["notes"])


@pytest.mark.parametrize(
    "last",
    [
        "2026-03-18",
        "2026-03-18 10:00:00,AAA,buy",
        "x,AAA,buy,1,10.00,1.00",
        ",,,1,10.00,1.00",
        "Total,AAA,buy,1,10.00,1.00",
        ",AAA,,,,",
        "2026-03-18,,,,,",
        "5",
        "AAA,buy,100",
    ],
)
def test_a_broken_row_is_not_a_footer(tmp_path: Path, last: str) -> None:
    """A row with missing cells, or a single figure, is rejected and not skipped: the sums may lack it."""
    found = figures_of(tmp_path, "\n".join([HEAD, *ROWS, last]))
    assert (found["verdict"], found["rejected"]) == ("unknown", 1)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "utf-8-sig"])
def test_import_finds_fills_in_any_encoding(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    """`ops import` recognises fills by their content, without --kind, and gives the same figures."""
    content = "Account é\n\n" + "\n".join([HEAD, *ROWS])
    (tmp_path / "f.csv").write_bytes((b"\xff\xfe" if encoding == "utf-16-le" else b"") + content.encode(encoding))
    assert ops("import", str(tmp_path / "f.csv"), capsys=capsys)[0] == 0
    assert shares(json.loads(ops("pnl", "-o", "json", capsys=capsys)[1])) == (1, 100, 98, 0, 0)


def test_windows_1252_is_read_and_a_picture_is_not(tmp_path: Path) -> None:
    """Files in Windows-1252, as older brokers write them, are read; binary files are rejected."""
    content = f"{HEAD},description\n{ROWS[0]},Société – é\n"
    assert read(tmp_path, content.encode("cp1252")).fills[0].value == -1000
    for raw in (b"\x89PNG\r\n\x1a\n\x00\x00" + bytes(range(256)), b"PK\x03\x04" + bytes(range(256)), b"\xff\xfe\x00"):
        assert "not UTF-8 text" in reasons(tmp_path, raw)


@pytest.mark.parametrize(
    ("day", "clock"),
    [
        ("03/17/2026", "10:01:00"),
        ("3/17/26", "10:01 AM"),
        ("2026-03-17", "10:01:00"),
        ("17-Mar-2026", "10:01"),
        ("20260317", "100100"),
        ("Mar 17, 2026", "10:01:00 EDT"),
        ("2026-03-17T00:00:00", "10:01"),
        ("17.03.2026", "14:01 UTC"),
        ("03-17-2026", "10:01:00.000"),
    ],
)
@pytest.mark.parametrize("head", ["Date,Time", "Trade Date,Exec Time", "Time,Date", "Run Date,Trade Time"])
def test_date_and_time_in_two_columns(tmp_path: Path, day: str, clock: str, head: str) -> None:
    """A date column and a time column are joined, in either order."""
    cells = f'"{day}","{clock}"' if not head.startswith("Time") else f'"{clock}","{day}"'
    found = read(tmp_path, f"{head},symbol,side,quantity,price\n{cells},AAA,buy,1,2\n")
    assert f"{found.fills[0].at:%Y-%m-%dT%H:%M:%S%z}" == "2026-03-17T14:01:00+0000"


def test_date_and_time_columns_of_round_trips(tmp_path: Path) -> None:
    """
    Entry and exit each have a date and a time column; an unambiguous date in either shows the order of day and month.
    """
    found = read(
        tmp_path,
        "id,entry_date,entry_time,exit_date,exit_time,symbol,entry_price,exit_price,quantity\n1,04/03/2026,"
        "10:00,17/03/2026,11:00 AM,AAA,5,6,10\n",
    )
    assert [f"{f.at:%m-%d %H:%M}" for f in found.fills] == ["03-04 15:00", "03-17 15:00"]


def test_a_time_without_a_date_is_rejected(tmp_path: Path) -> None:
    """A time without a date, and a spreadsheet's day number, are rejected with their reason; no date is made up."""
    assert "time is '10:01:00', a time without a day" in reasons(tmp_path, f"{PLAIN}\n10:01:00,AAA,buy,1,2\n")
    assert "a spreadsheet's day number" in reasons(
        tmp_path, f"{PLAIN}\n46098.4,AAA,buy,1,2\n"
    ) and "a spreadsheet's day number" in reasons(tmp_path, f"{PLAIN}\n46098,AAA,buy,1,2\n")


@pytest.mark.parametrize(
    ("cell", "utc"),
    [
        ("11-18-2024", "2024-11-18T05:00"),
        ("11/18/2024", "2024-11-18T05:00"),
        ("18-Nov-2024", "2024-11-18T05:00"),
        ("20241118", "2024-11-18T05:00"),
        ("20241118;101500", "2024-11-18T15:15"),
        ("2024-11-18;101500", "2024-11-18T15:15"),
        ("2024-11-18, 10:15:00", "2024-11-18T15:15"),
        ("11/18/2024 as of 11/15/2024", "2024-11-15T05:00"),
        ("11/18/2024 10:15:00 EST", "2024-11-18T15:15"),
        ("11/18/24 3:05 PM", "2024-11-18T20:05"),
        ("Nov 18, 2024", "2024-11-18T05:00"),
        ("18 NOV 24", "2024-11-18T05:00"),
        ("2024/11/18 10:15", "2024-11-18T15:15"),
        ("2024-11-18 10:15:00 PM", "2024-11-19T03:15"),
        ("18.11.2024", "2024-11-18T05:00"),
    ],
)
def test_date_formats_of_brokers_are_read(cell: str, utc: str) -> None:
    """Each format gives the exact time; without a zone it is New York time."""
    assert f"{moment(cell):%Y-%m-%dT%H:%M}" == utc


@pytest.mark.parametrize(
    "cell",
    [
        "13/45/2021",
        "2026-02-30",
        "45614",
        "45614.4",
        "12/31/1899",
        "11/18/2024 10:15 CST",
        "11/18/2024 25:15",
        "11/18/2024x",
        "Foo 18, 2024",
        "0001-01-01",
        "9999-12-31",
        "",
        None,
        1.5,
        True,
        [1],
        "9" * 500,
    ],
)
def test_invalid_dates_are_rejected(cell: object) -> None:
    """An invalid date raises a ValueError and nothing else."""
    with pytest.raises(ValueError):
        moment(cell)


def test_day_and_month_order_comes_from_the_file(tmp_path: Path) -> None:
    """
    A date such as 17/03 shows the order for every row. If none does, the US order is used, with a note. If both orders
    occur, one is rejected.
    """

    def rows(*days):
        return f"{PLAIN}\n" + "".join(f"{day},AAA,buy,1,2\n" for day in days)

    found = read(tmp_path, rows("17/03/2026", "04/03/2026"))
    assert [f"{f.at:%m-%d}" for f in found.fills] == [
        "03-04",
        "03-17",
    ] and "day/month/year, as '17/03/2026' shows" in found.notes[0]
    assert not read(tmp_path, rows("03/17/2026", "03/04/2026")).notes
    found = read(tmp_path, rows("03/04/2026"))
    assert f"{found.fills[0].at:%m-%d}" == "03-04" and "'03/04/2026' are read as month/day/year" in found.notes[0]
    assert "time is '17/03/2026'" in reasons(tmp_path, rows("03/17/2026", "17/03/2026"))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("$1,234.50", "1234.50"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("($1,234.50)", "-1234.50"),
        ("5.00-", "-5.00"),
        ("−5", "-5"),
        ("USD 5", "5"),
        ("5 USD", "5"),
        ("US$5", "5"),
        ("+5", "5"),
        ("'5", "5"),
        (0.1, "0.1"),
        (7, "7"),
    ],
)
def test_number_formats_of_brokers_are_read(cell: object, value: str) -> None:
    """Each format gives the exact number with its sign."""
    assert number(cell) == D(value)


@pytest.mark.parametrize(
    "cell",
    [
        "£12",
        "12 EUR",
        "C$5",
        "HK$5",
        "12p",
        "12,50",
        "1.234,56",
        "12 SHS",
        "NaN",
        "Infinity",
        "1e400",
        "-(5)",
        "$",
        "1e-99",
        10**40,
        float("inf"),
        float("nan"),
        "9" * 5000,
        {},
        "1,23,456",
    ],
)
def test_invalid_dollar_amounts_are_rejected(cell: object) -> None:
    """An invalid dollar amount raises a ValueError and nothing else."""
    with pytest.raises(ValueError):
        number(cell)


OPTION = "AAA 03/20/2026 55.00 C"


def test_schwab(tmp_path: Path) -> None:
    """
    Schwab: buys, sells, a covered call assigned into its shares, an expired put and other cash; newest first, with a
    total.
    """
    content = SCHWAB + "".join(
        f'"{row}"\n'.replace("|", '","')
        for row in (
            "03/23/2026 as of 03/20/2026|Assigned|AAA 03/20/2026 55.00 C|CALL ALPHA CORP|1|||",
            "03/23/2026 as of 03/20/2026|Sell|AAA|ALPHA CORP|100|$55.00|$0.05|$5499.95",
            "03/23/2026 as of 03/20/2026|Expired|AAA 03/20/2026 45.00 P|PUT ALPHA CORP|1|||",
            "03/18/2026|Cash Dividend|AAA|ALPHA CORP||||$25.00",
            "03/17/2026|Buy to Close|BBB 06/19/2026 10.00 P|PUT BETA|3|$0.25|$1.98|-$76.98",
            "03/16/2026|Sell to Open|BBB 06/19/2026 10.00 P|PUT BETA|3|$0.50|$1.98|$148.02",
            "03/03/2026|Sell to Open|AAA 03/20/2026 45.00 P|PUT ALPHA CORP|1|$0.30|$0.66|$29.34",
            "03/03/2026|Sell to Open|AAA 03/20/2026 55.00 C|CALL ALPHA CORP|1|$0.80|$0.66|$79.34",
            "03/02/2026|Buy|AAA|ALPHA CORP|100|$50.00||-$5000.00",
            "03/01/2026|MoneyLink Transfer||Tfr BANK|||| $5000.00",
            "Transactions Total|||||||$5728.67",
        )
    )
    found = figures_of(tmp_path, content)
    # Options: 80 + 30 + (150 - 75) = 185 less 0.66 + 0.66 + 1.98 + 1.98; shares: 5,500 - 5,000 less 0.05.
    assert (
        options(found) == (3, 185, 179.72, 0, 0)
        and shares(found)[:3] == (1, 500, 499.95)
        and found["cash"]
        == {
            "fills_usd": 679.67,
            "other_usd": 5025.0,
            "total_usd": 5704.67,
            "other": {"cash dividend": 25.0, "moneylink transfer": 5000.0},
        }
    )
    assert found["verdict"] == "ok"
    for row, said in (
        ('"03/20/2026","Stock Split","AAA","ALPHA CORP","100","","",""', "Action is 'Stock Split'"),
        ('"03/20/2026","Journaled Shares","AAA","ALPHA CORP","100","","",""', "without a cash amount"),
        ('"03/20/2026","Security Transfer","AAA","ALPHA CORP","100","","","$5000.00"', "without a cash amount"),
        ('"03/20/2026","Expired","AAA","ALPHA CORP","100","","",""', "names no option"),
        ('"03/20/2026","Assigned","AAA 03/20/2026 55.00 C","X","1","","","$5500.00"', "0 was expected"),
    ):
        assert said in reasons(tmp_path, content + row + "\n")


def test_fidelity(tmp_path: Path) -> None:
    """
    Fidelity: actions as sentences, contracts with a leading minus, negative quantities for sales, disclaimers at the
    end.
    """
    rows = [
        "03/23/2026,EXPIRED CALL (BBB) BETA INC MAR 20 26 $30 (100 SHS) as of Mar-20-2026 (Margin), "
        "-BBB260320C30,CALL (BBB) BETA INC MAR 20 26 $30 (100 SHS),Margin,2,,,,,,",
        "03/17/2026,YOU SOLD ALPHA CORP (AAA) (Cash), AAA,ALPHA CORP,Cash,-100,51,,0.13,,5099.87,03/18/2026",
        "03/16/2026,YOU BOUGHT ALPHA CORP (AAA) (Cash), AAA,ALPHA CORP,Cash,100,50,,,,-5000,03/17/2026",
        "03/16/2026,YOU SOLD OPENING TRANSACTION CALL (BBB) BETA INC MAR 20 26 $30 (100 SHS) (Margin), "
        "-BBB260320C30,CALL (BBB) BETA INC MAR 20 26 $30 (100 SHS),Margin,-2,0.75,1.3,0.05,,148.65,03/17/2026",
        "03/13/2026,DIVIDEND RECEIVED ALPHA CORP (AAA) (Cash), AAA,ALPHA CORP,Cash,0,,,,,12.5,",
    ]
    found = figures_of(tmp_path, FIDELITY + "\n".join(rows) + FIDELITY_END)
    assert (
        options(found) == (1, 150, 148.65, 0, 0)
        and shares(found)[:3] == (1, 100, 99.87)
        and found["cash"]["other_usd"] == 12.5
        and found["verdict"] == "ok"
    )
    assert [t["symbol"] for t in found["trades_list"][0]["legs"]] == ["BBB 260320C00030000"]
    assert "Quantity is '-100' for a buy" in reasons(tmp_path, FIDELITY + rows[2].replace(",100,50", ",-100,50"))


def test_etrade(tmp_path: Path) -> None:
    """E*Trade: types OPTN and EQ, sides in words, and the amount after commission."""
    rows = [
        "03/16/26,Sold Short,OPTN,AAA Mar 20 '26 $55 Call,-2,78.68,0.40,1.32,AAA Mar 20 '26 $55 Call",
        "03/17/26,Bought To Cover,OPTN,AAA Mar 20 '26 $55 Call,2,-21.32,0.10,1.32,x",
        "03/16/26,Bought,EQ,AAA,100,-5000.00,50.00,0,ALPHA CORP",
        "03/17/26,Sold,EQ,AAA,-100,5100.00,51.00,0,ALPHA CORP",
        "03/17/26,Dividend,EQ,AAA,0,7.50,0,0,ALPHA CORP",
    ]
    found = figures_of(tmp_path, ETRADE + "\n".join(rows) + "\n")
    assert (
        options(found) == (1, 60, 57.36, 0, 0)
        and shares(found)[:3] == (1, 100, 100)
        and found["cash"]["other_usd"] == 7.5
    )


def test_interactive_brokers(tmp_path: Path) -> None:
    """
    Interactive Brokers Flex: signed commissions and quantities, an id for each execution that names no round trip,
    times with a semicolon.
    """
    rows = [
        '"U1","USD","OPT","AAA   260320C00055000","C","55","20260320","100","1","20260316","20260316;100100",'
        '"SELL","-2","0.4","80","-1.32","USD","78.68","O","EXECUTION"',
        '"U1","USD","OPT","AAA   260320C00055000","C","55","20260320","100","2","20260317","20260317;100100",'
        '"BUY","2","0.1","-20","-1.32","USD","-21.32","C","EXECUTION"',
        '"U1","USD","STK","BBB","","","","1","3","20260316","20260316;100100","BUY","100","10","-1000","-1",'
        '"USD","-1001","O","EXECUTION"',
        '"U1","USD","STK","BBB","","","","1","4","20260317","20260317;100100","SELL","-100","11","1100",'
        '"0.25","USD","1100.25","C","EXECUTION"',
    ]
    found = figures_of(tmp_path, FLEX + "\n".join(rows) + "\n")
    # The rebate of 0.25 is not a cost.
    assert options(found) == (1, 60, 57.36, 0, 0) and shares(found)[:3] == (1, 100, 99.25)
    for change, said in (
        ((',"USD","STK"', ',"EUR","STK"'), "CurrencyPrimary is 'EUR'"),
        (('"STK","BBB"', '"CASH","EUR.USD"'), "'cash'; stock or option"),
        (('"C","EXECUTION"', '"C","ORDER"'), "sums up or repeats"),
        (('"1100.25"', '"1101.25"'), "NetCash is 1101.25"),
        (('"0.25","USD"', '"0.25","CAD"'), "IBCommissionCurrency is 'CAD'"),
    ):
        assert said in reasons(tmp_path, FLEX + "\n".join(rows).replace(*change) + "\n")


def test_robinhood(tmp_path: Path) -> None:
    """
    Robinhood: the contract is in the description, fees only in the amount, 2S is an expiration; a dividend is other
    cash.
    """
    rows = [
        '"3/20/2026","3/20/2026","3/23/2026","AAA","Option Expiration for AAA 3/20/2026 Call $55.00","OEXP","2S","",""',
        '"3/16/2026","3/16/2026","3/17/2026","AAA","AAA 3/20/2026 Call $55.00","STO","2","$0.40","$79.92"',
        '"3/16/2026","3/16/2026","3/17/2026","BBB","Beta","Sell","10","$11.00","$109.99"',
        '"3/13/2026","3/13/2026","3/14/2026","BBB","Beta","Buy","10","$10.00","($100.00)"',
        '"3/12/2026","3/12/2026","3/12/2026","BBB","Cash Div: R/D 2026","CDIV","","","$1.50"',
        '"","","","","","","","","","The data provided is for information, and no advice."',
    ]
    found = figures_of(tmp_path, ROBINHOOD + "\n".join(rows[:-1]) + "\n")
    assert (
        options(found) == (1, 80, 79.92, 0, 0)
        and shares(found)[:3] == (1, 10, 9.99)
        and found["cash"]["other_usd"] == 1.5
        and found["verdict"] == "ok"
    )
    assert "seems to name an option" in reasons(
        tmp_path,
        ROBINHOOD + '"3/16/2026","3/16/2026","3/17/2026","AAA","AAA March Call $55","STO","2","$0.40","$80.00"\n',
    )


def test_webull(tmp_path: Path) -> None:
    """Webull: the average price counts, not the limit price; cancelled orders are named and skipped."""
    rows = [
        "Alpha,AAA,Buy,Filled,100,100,@10.50,10.00,DAY,03/16/2026 10:00:00 EDT,03/16/2026 10:00:01 EDT",
        "Alpha,AAA,Sell,Filled,100,100,@10.50,11.00,DAY,03/17/2026 10:00:00 EDT,03/17/2026 10:00:01 EDT",
        "Alpha,AAA,Sell,Cancelled,0,100,@12.00,,DAY,03/17/2026 10:00:00 EDT,",
        "AAA260320C00055000,AAA260320C00055000,Buy,Filled,1,1,@0.50,0.40,DAY,03/16/2026 10:00:00 EDT,03/16/"
        "2026 10:00:01 EDT",
    ]
    found = read(tmp_path, WEBULL + "\n".join(rows) + "\n")
    assert [(f.instrument, f.value) for f in found.fills] == [
        ("stock", -1000),
        ("option", -40),
        ("stock", 1100),
    ] and "1 orders that were not filled are skipped: rows 4" in found.notes


def test_json_of_executions(tmp_path: Path) -> None:
    """The same columns are read from JSON, as a list or under a name."""
    one = {
        "time": "2026-03-16T10:00:00-04:00",
        "symbol": "AAA",
        "side": "buy",
        "quantity": 10,
        "price": 1.5,
        "commission": 0.1,
    }
    two = one | {"time": "2026-03-17T10:00:00-04:00", "side": "sell", "price": 2.5}
    for content in ([one, two], {"fills": [one, two]}, {"executions": [one, two], "count": 2}):
        assert shares(figures_of(tmp_path, json.dumps(content), "f.json")) == (1, 10, 9.8, 0, 0) and reader.is_fills(
            json.dumps(content)
        )
    assert shares(figures_of(tmp_path, f"{json.dumps(one)}\n{json.dumps(two)}\n", "f.json")) == (1, 10, 9.8, 0, 0)
    assert "currency is 'EUR'" in reasons(tmp_path, json.dumps([one | {"currency": "EUR"}]), "f.json")


@pytest.mark.parametrize(
    "content",
    [
        '{"history": {"event": [{"amount": -100.0, "date": "2026-03-16T00:00:00Z", "type": "trade", "trade": '
        '{"commission": 0.35, "price": 1.0, "quantity": 1.0, "symbol": "AAA", "trade_type": "Equity"}}]}}',
        "Trades,Header,DataDiscriminator,Asset Category,Currency,Symbol,Date/Time,Quantity,T. Price,Proceeds,"
        "Comm/Fee\nTrades,Data,Order,Stocks,USD,AAA,2026-03-16,100,1,-100,-1\n",
        "Symbol,Quantity,Cost Basis,Market Value\nAAA,100,1,100\n",
        "open,high,low,close\n1,2,3,4\n",
    ],
)
def test_an_unsupported_layout_is_rejected(tmp_path: Path, content: str) -> None:
    """The message says what was found and what was expected."""
    with pytest.raises(ImportRefused, match="expected"):
        read(tmp_path, content)


CELL = st.one_of(
    st.sampled_from(
        [
            "",
            "AAA",
            "AAA 251219C00150000",
            "buy",
            "sell",
            "Expired",
            "2026-03-16",
            "03/17/2026",
            "10:00:00",
            "45614",
            "1",
            "-1",
            "0",
            "$5",
            "1e400",
            "NaN",
            "£1",
            "1,5",
            "9" * 30,
            "1e-11",
            "999999999999",
            "Total",
            "stock",
            "option",
            "--",
            "\x00",
            "“",
            "ﬁ",
            "x" * 400,
            '"',
            "'",
            ";",
        ]
    ),
    st.text(max_size=12),
)
COLUMN = st.sampled_from(
    [
        *HEAD.split(","),
        "Fees & Comm",
        "Amount",
        "Net Amount",
        "Description",
        "Date",
        "Asset Class",
        "Strike",
        "Expiry",
        "Put/Call",
        "Multiplier",
        "Currency",
        "trade_id",
        "entry_price",
        "exit_price",
        "entry_time",
        "id",
        "net_pct",
        "Status",
        "",
        "bid",
        "ask",
        "Type",
        "Value",
        "Instrument Type",
        "Transaction Code",
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> str:
    """Draw a text like a file of fills: usual and other columns, any cells, any separators, sometimes truncated."""
    columns = draw(
        st.one_of(
            st.just(HEAD.split(",")),
            st.lists(COLUMN, max_size=6).map(lambda more: [*HEAD.split(","), *more]),
            st.lists(COLUMN, min_size=1, max_size=12),
        )
    )
    rows = draw(st.lists(st.lists(CELL, min_size=0, max_size=len(columns) + 1), max_size=5))
    delimiter = draw(st.sampled_from(",;\t|"))
    content = "\n".join(
        delimiter.join(line)
        for line in [columns, *rows, *(["2026-03-16", "AAA", "buy", "1", "2", "1"],) * draw(st.integers(0, 2))]
    )
    return (
        draw(st.sampled_from(["", "sep=,\n", "\ufeff", "Account 1\n\n"]))
        + content[: draw(st.integers(0, len(content)))]
        if draw(st.booleans())
        else content
    )


ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), CELL),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(COLUMN, st.text(max_size=6)), inner, max_size=6)
    ),
    max_leaves=25,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a case file with a few bytes changed, removed or inserted."""
    content = bytearray(
        draw(st.sampled_from([p.read_bytes() for p in sorted(CASES.glob("*.csv")) if p.name.startswith(("b", "ok"))]))
    )
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 20))] = draw(
            st.one_of(st.binary(max_size=2), st.sampled_from([b"9" * 20, b'"', b",", b"\n", b"-", b"e9", b"$", b"."]))
        )
    return bytes(content)


@hypothesis_settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        mutated(),
        tables().map(str.encode),
        st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass")),
        st.binary(max_size=200),
        ANY.map(lambda x: json.dumps(x).encode()),
        ANY.map(
            lambda x: json.dumps(
                [{"time": "2026-03-16", "symbol": "AAA", "side": "buy", "quantity": 1, "price": 1} | x]
                if isinstance(x, dict)
                else x
            ).encode()
        ),
    ),
    st.booleans(),
)
def test_any_bytes_are_read_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, backtest: bool
) -> None:
    """Any bytes give either fills or a rejection with a reason; fills always give results, as text and as JSON."""
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    try:
        found = reader.read(path, backtest)
    except ImportRefused as problem:
        assert str(problem)
        return
    assert found.fills or found.moneys or found.backtest_results
    if not backtest:
        values = pnl_details.of_book(found, RULE)
        assert json.dumps(values.as_json()) and repr(values)
    else:
        live = reader.read(CASES / "b02_schwab_option.csv")
        assert json.dumps(pnl_details.of_book(live, RULE, theirs=found).as_json())


@pytest.mark.parametrize(
    "content",
    [
        b'[{"entry_price": 1e400}]',
        b'[{"entry_price": NaN, "exit_price": Infinity}]',
        b'[{"entry_price": ' + b"9" * 5000 + b"}]",
        b"[" * 5000,
        b'{"trades": {"a": 1}}',
        b'[1, null, "x", []]',
        b'[{"entry_price": 1, "entry_ts": {"a": []}, "quantity": [1]}]',
        b'[{"entry_price": 5, "entry_ts": "2026-01-05T10:00", "exit_price": 999999999999, "exit_ts": '
        b'"2026-01-05T11:00", "quantity": 999999999999}]',
        b"sep=,",
        b"sep=\n",
        b'time,symbol,side,quantity,price\n"2026',
        b"time,symbol,side,quantity,price\n2026-01-05,AAA,buy,999999999999,999999999999\n",
        b"time,symbol,side,quantity,price\n2026-01-05,AAA,buy,1," + b"1" * 200_000 + b"\n",
        b"time,symbol,side,quantity,price,amount\n2026-03-17,AAA,buy,900000000,900000000,5\n",
    ],
    ids=range(14),
)
def test_no_file_gives_a_traceback(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    """`ops pnl` and `ops import`, also with the file as backtest, exit with 70 and a sentence."""
    path = tmp_path / "f"
    path.write_bytes(content)
    for command in (
        ["pnl", str(path)],
        ["import", str(path), "--kind", "fills"],
        ["pnl", str(CASES / "b01_schwab_shares.csv"), "--backtest", str(path)],
    ):
        code, _, err = ops(*command, capsys=capsys)
        assert code == 70 and err.startswith("ops: ") and "Traceback" not in err


def test_symbols_that_are_not_shares() -> None:
    """Currency pairs, futures and bond numbers are not symbols of shares."""
    assert not any(
        is_share_symbol(s)
        for s in ("BTC-USD", "BTC/USD", "EURUSD", "EUR.USD", "BTCUSD", "912796XX1", "ESZ5", "NQH26", "", "AAPL Dec")
    ) and all(is_share_symbol(s) for s in ("VOD", "aapl", "BRK.B"))
