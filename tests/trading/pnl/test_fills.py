"""
Test files of fills: both tastytrade layouts, the app's trades, plain CSV; every row is read, or rejected with a reason.
"""

import csv
import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from opslib.cli import main
from opslib.foundation.errors import ImportRefused
from opslib.trading.pnl import pnl, reader, round_trips
from opslib.trading.pnl.cells import moment, number
from tests.support.system import SHARED

D = Decimal
COLUMNS = (
    "Date,Type,Sub Type,Action,Symbol,Instrument Type,Description,Value,Quantity,Average Price,"
    "Commissions,Fees,Multiplier,Root Symbol,Underlying Symbol,Expiration Date,Strike Price,Call or Put,Order #,"
    "Total,Currency"
)
OLDER = (
    "Date/Time,Transaction Code,Transaction Subcode,Symbol,Buy/Sell,Open/Close,Quantity,Expiration Date,"
    "Strike,Call/Put,Price,Fees,Amount,Description,Account Reference"
)
BROKER = SHARED / "data" / "trades" / "tastytrade_TSLL.csv"


def row(**other: str) -> str:
    """Return a row of the current layout: one call sold for 4.37; `other` names columns without their spaces."""
    cells = dict(
        zip(
            COLUMNS.split(","),
            [
                "2025-09-17T14:40:51+0100",
                "Trade",
                "Sell to Open",
                "SELL_TO_OPEN",
                "XYZ   251024C00015000",
                "Equity Option",
                "Sold 1 XYZ 10/24/25 Call 15.00 @ 4.37",
                "437.00",
                "1",
                "437.00",
                "-1.00",
                "-0.12",
                "100",
                "XYZ",
                "XYZ",
                "10/24/25",
                "15",
                "CALL",
                "7",
                "435.88",
                "USD",
            ],
        )
    )
    assert {k.replace("_", " ") for k in other} <= {k.replace("#", "number") for k in cells}, other
    cells |= {k.replace("_", " ").replace("number", "#"): v for k, v in other.items()}
    return ",".join(f'"{v}"' if "," in v else v for v in cells.values())


def sale(symbol: str = "XYZ   251024C00015000", **other: str) -> str:
    return row(Symbol=symbol, **other)


def closing(**other: str) -> str:
    """Return a row of the same call bought back for 4.32, in a later order."""
    base = {
        "Date": "2025-10-01T15:00:00+0100",
        "Sub_Type": "Buy to Close",
        "Action": "BUY_TO_CLOSE",
        "Description": "Bought 1 XYZ 10/24/25 Call 15.00 @ 4.32",
        "Value": "-432.00",
        "Average_Price": "-432.00",
        "Commissions": "0.00",
        "Order_number": "8",
        "Total": "-432.12",
    }
    return row(**(base | other))


def delivered(sub_type: str, action: str = "", **other: str) -> str:
    """Return a row of an expiration, assignment or other delivery of the call."""
    base = {
        "Date": "2025-10-24T21:00:00+0100",
        "Type": "Receive Deliver",
        "Sub_Type": sub_type,
        "Action": action,
        "Description": f"Removal of option due to {sub_type.lower()}",
        "Value": "0.00",
        "Average_Price": "0.00",
        "Commissions": "--",
        "Fees": "0.00",
        "Order_number": "",
        "Total": "0.00",
    }
    return row(**(base | other))


def file(folder: Path, *rows: str, columns: str = COLUMNS, end: str = "\n", name: str = "fills.csv") -> Path:
    path = folder / name
    path.write_bytes(end.join([columns, *rows, ""]).encode())
    return path


def test_the_real_export_adds_up_to_the_cent() -> None:
    """Every row of the real export is read, and each order equals the broker's own total."""
    if not BROKER.is_file():
        pytest.skip("the broker's export is not beside the project")
    found = reader.read(BROKER)
    rows = list(csv.DictReader(BROKER.read_text(encoding="utf-8-sig").splitlines()))
    assert (len(found.fills) + len(found.moneys), found.refused) == (len(rows), [])
    theirs: dict[str, Decimal] = {}
    for i, cells in enumerate(rows, 2):
        if cells["Type"] != "Money Movement":
            key = cells["Order #"] or f"row {i}"
            theirs[key] = theirs.get(key, D(0)) + D(cells["Total"].replace(",", ""))
    orders = pnl.orders(found.fills)
    assert {o.name: o.total for o in orders} == theirs and len(orders) > 100
    assert sum(o.total for o in orders) + sum(m.total for m in found.moneys) == D("9139.37")
    # Opening costs a dollar a contract, at most ten for a leg; closing is free: so in every order of options only.
    assert [o.name for o in orders if o.model is not None and o.model != o.commission] == []


def test_the_real_export_ends_flat() -> None:
    """
    No position is open at the end or opened before the file, two positions continue under another strike, and all cash
    is counted.
    """
    if not BROKER.is_file():
        pytest.skip("the broker's export is not beside the project")
    found = reader.read(BROKER)
    trips = round_trips.round_trips(found.fills)
    assert (len(trips.trades), len(trips.stock), trips.open, trips.before, trips.renamed) == (61, 24, [], [], 2)
    realised = sum(
        leg.gross + (leg.commission or 0) + leg.fees for t in (*trips.trades, *trips.stock) for leg in t.legs
    )
    assert realised == sum(f.total for f in found.fills) == D("9017.51")
    long = next(t for t in trips.trades if t.legs[0].names)
    assert (long.legs[0].names, long.legs[0].symbol) == (["TSLL 241220C00036000"], "TSLL 241220C00035700")


def test_every_field_of_a_row_is_read(tmp_path: Path) -> None:
    """
    A row gives the time in UTC, the price of one unit, cash with its sign, costs, order, and the contract's terms.
    """
    fill = reader.read(file(tmp_path, row())).fills[0]
    assert fill.at == datetime(2025, 9, 17, 13, 40, 51, tzinfo=UTC)
    assert (
        fill.side,
        fill.effect,
        fill.quantity,
        fill.price,
        fill.multiplier,
        fill.value,
        fill.commission,
        fill.fees,
        fill.total,
    ) == ("sell", "open", 1, D("4.37"), 100, D("437.00"), D("-1.00"), D("-0.12"), D("435.88"))
    assert (fill.symbol, fill.underlying, fill.order, str(fill.expiry), fill.strike, fill.right) == (
        "XYZ 251024C00015000",
        "XYZ",
        "7",
        "2025-10-24",
        15,
        "C",
    )


@pytest.mark.parametrize(
    "lacking",
    [
        ("Total",),
        ("Total", "Currency"),
        ("Total", "Currency", "Sub Type"),
        ("Total", "Currency", "Sub Type", "Order #"),
        ("Root Symbol",),
    ],
)
def test_newer_columns_may_be_missing(tmp_path: Path, lacking: tuple[str, ...]) -> None:
    """Without the columns that were added over time, and in any order of columns, the fills have the same cash."""
    rows = list(
        csv.DictReader(
            [
                COLUMNS,
                sale(),
                delivered(
                    "Expiration",
                    "BUY_TO_CLOSE",
                    Description="Removal of 1.0 XYZ 10/24/25 Call 15.00 due to expiration.",
                ),
            ]
        )
    )
    columns = [c for c in reversed(COLUMNS.split(",")) if c not in lacking]
    found = reader.read(file(tmp_path, *(",".join(r[c] for c in columns) for r in rows), columns=",".join(columns)))
    assert [(f.kind, f.total) for f in found.fills] == [
        ("trade", D("435.88")),
        ("expiration", D(0)),
    ] and not found.refused


def test_bom_crlf_gzip_and_thousands_separators(tmp_path: Path) -> None:
    """A byte order mark, Windows line ends, gzip and thousands separators do not change the result."""
    big = row(
        Quantity="10", Value="4,370.00", Average_Price="437.00", Commissions="-10.00", Fees="-1.20", Total="4,358.80"
    )
    path = file(tmp_path, big, end="\r\n", columns="\ufeff" + COLUMNS)
    assert reader.read(path).fills[0].total == D("4358.80")
    (tmp_path / "f.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert reader.read(tmp_path / "f.csv.gz").fills == reader.read(path).fills


@pytest.mark.parametrize(
    ("how", "wrong"),
    [
        ({"Quantity": "0"}, "Quantity is '0'; a number above 0 was expected"),
        ({"Quantity": "many"}, "Quantity is 'many'; a number was expected"),
        ({"Value": ""}, "Value is empty; a number was expected"),
        ({"Value": "4.3.7"}, "Value is '4.3.7'; a number was expected"),
        ({"Strike_Price": "-15", "Symbol": "XYZ"}, "Strike Price is '-15'; a number above 0 was expected"),
        ({"Action": "BORROW"}, "Action is 'BORROW'"),
        ({"Action": ""}, "Action is ''"),
        ({"Date": "yesterday"}, "Date is 'yesterday'"),
        ({"Type": "Gift"}, "Type is 'gift'; Trade, Receive Deliver or Money Movement was expected"),
        ({"Instrument_Type": "Painting"}, "Instrument Type is 'Painting'"),
        ({"Total": "436.88"}, "Total is 436.88, but Value, Commissions and Fees add up to 435.88"),
        ({"Value": "-437.00", "Total": "-438.12"}, "Value is -437.00 for a sell"),
        ({"Currency": "EUR"}, "Currency is 'EUR'; USD was expected"),
        ({"Symbol": ""}, "Symbol is empty"),
        ({"Call_or_Put": "BOTH"}, "Call or Put is 'B'"),
        ({"Fees": "NaN"}, "Fees is 'NaN'; a number was expected"),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason(tmp_path: Path, how: dict[str, str], wrong: str) -> None:
    """The reason names the column, what was found and what was expected; the other rows are read."""
    found = reader.read(file(tmp_path, row(), row(**how), closing()))
    assert len(found.fills) == 2 and [r.row for r in found.refused] == [3]
    assert any(wrong in reason for reason in found.refused[0].reasons), found.refused


def test_all_reasons_of_a_row_are_reported(tmp_path: Path) -> None:
    """A row with three problems reports three reasons; a file with only such rows is rejected as a whole."""
    path = file(tmp_path, row(Quantity="x", Value="y", Date="z"))
    with pytest.raises(ImportRefused, match="no readable fill.*row 2.*Date.*Quantity.*Value"):
        reader.read(path)
    found = reader.read(file(tmp_path, row(), row() + ",surplus"))
    assert "22 cells; 21 were expected" in found.refused[0].reasons[0]


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\x00\xff\x00", b"{", b"[]", b'{"a": 1}'])
def test_a_file_without_fills_is_rejected(tmp_path: Path, content: bytes) -> None:
    """An empty file, other columns, binary data, invalid JSON and JSON without trades are rejected."""
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ImportRefused):
        reader.read(tmp_path / "x")


def test_assignment_opens_stock_and_costs_nothing(tmp_path: Path) -> None:
    """An assigned option ends at 0 without commission; the delivered stock is a separate position."""
    stock = row(
        Date="2025-10-24T21:00:00+0100",
        Type="Receive Deliver",
        Sub_Type="Sell to Open",
        Symbol="XYZ",
        Instrument_Type="Equity",
        Description="Sell to Open 100 XYZ @ 15.00",
        Value="1,500.00",
        Quantity="100",
        Average_Price="15.00",
        Commissions="--",
        Fees="-5.00",
        Multiplier="",
        Expiration_Date="",
        Strike_Price="",
        Call_or_Put="",
        Order_number="",
        Total="1,495.00",
        Action="SELL_TO_OPEN",
    )
    trips = round_trips.round_trips(reader.read(file(tmp_path, sale(), delivered("Assignment"), stock)).fills)
    leg = trips.trades[0].legs[0]
    assert (leg.ends, leg.gross, leg.commission, leg.fees, leg.traded) == (
        ["assignment"],
        D("437.00"),
        D("-1.00"),
        D("-0.12"),
        0,
    )
    assert [(held.symbol, held.side, held.left, held.open_value, held.open_fees) for held in trips.open] == [
        ("XYZ", -1, 100, D("1500.00"), D("-5.00"))
    ]


def test_cash_settlement_sets_the_exit_price(tmp_path: Path) -> None:
    """An index option settled in cash ends at the amount that was paid for it, with its fee."""
    settled = delivered("Cash Settled Assignment", Value="-364.00", Total="-369.00", Fees="-5.00")
    leg = round_trips.round_trips(reader.read(file(tmp_path, sale(), settled)).fills).trades[0].legs[0]
    assert (leg.gross, leg.fees, leg.mean(leg.exit_units), leg.ends) == (
        D("73.00"),
        D("-5.12"),
        D("3.64"),
        ["cash settlement"],
    )


def test_closes_of_earlier_positions_are_kept_separately(tmp_path: Path) -> None:
    """Closes, expirations and exercises of positions that the file never opened are kept separately."""
    trips = round_trips.round_trips(
        reader.read(file(tmp_path, closing(), delivered("Expiration", "BUY_TO_CLOSE"), delivered("Exercise"))).fills
    )
    assert (trips.trades, trips.open, sorted(f.kind for f in trips.before)) == (
        [],
        [],
        ["exercise", "expiration", "trade"],
    )


def test_a_position_continues_under_another_strike_after_a_special_dividend(tmp_path: Path) -> None:
    """A position closed at a value and opened again at the opposite value is one round trip with its original cost."""
    shut = delivered(
        "Special Dividend",
        "BUY_TO_CLOSE",
        Date="2025-09-20T12:01:07+0000",
        Value="-96.00",
        Total="-96.00",
        Average_Price="-96.00",
        Description="Special dividend: Close 1.0",
    )
    anew = delivered(
        "Special Dividend",
        "SELL_TO_OPEN",
        Date="2025-09-20T12:01:07+0000",
        Value="96.00",
        Total="96.00",
        Average_Price="96.00",
        Symbol="XYZ   251024C00014700",
        Strike_Price="14.7",
        Description="Special dividend: Open 1.0",
    )
    trips = round_trips.round_trips(
        reader.read(
            file(tmp_path, closing(Symbol="XYZ   251024C00014700", Strike_Price="14.7"), anew, shut, sale())
        ).fills
    )
    assert (len(trips.trades), trips.open, trips.before, trips.renamed) == (1, [], [], 1)
    leg = trips.trades[0].legs[0]
    assert (leg.names, leg.symbol, leg.gross, leg.commission, leg.fees) == (
        ["XYZ 251024C00015000"],
        "XYZ 251024C00014700",
        D("5.00"),
        D("-1.00"),
        D("-0.24"),
    )


def test_a_renamed_position_opened_before_has_no_cost(tmp_path: Path) -> None:
    """
    A position opened before the file that continues under another strike has no known cost: its close is no round trip,
    and no cash is lost.
    """
    shut = delivered(
        "Special Dividend",
        "BUY_TO_CLOSE",
        Date="2025-09-20T12:01:07+0000",
        Value="-96.00",
        Total="-96.00",
        Average_Price="-96.00",
        Description="Special dividend: Close 1.0",
    )
    anew = delivered(
        "Special Dividend",
        "SELL_TO_OPEN",
        Date="2025-09-20T12:01:07+0000",
        Value="96.00",
        Total="96.00",
        Average_Price="96.00",
        Symbol="XYZ   251024C00014700",
        Strike_Price="14.7",
        Description="Special dividend: Open 1.0",
    )
    found = reader.read(file(tmp_path, closing(Symbol="XYZ   251024C00014700", Strike_Price="14.7"), anew, shut))
    trips = round_trips.round_trips(found.fills)
    assert (trips.trades, trips.open, trips.renamed) == ([], [], 0)
    assert sum(f.total for f in trips.before) == sum(f.total for f in found.fills) == D("-432.12")
    held = round_trips.round_trips(f for f in found.fills if f.kind != "trade")
    assert [(leg.symbol, leg.left, leg.open_value, leg.unknown) for leg in held.open] == [
        ("XYZ 251024C00014700", 1, 0, True)
    ]


def test_a_split_keeps_the_cost_and_changes_the_count(tmp_path: Path) -> None:
    """Two contracts become four under the same name; selling two of them realises half of the total cost."""
    more = {
        "Quantity": "2",
        "Value": "-400.00",
        "Average_Price": "-200.00",
        "Commissions": "-2.00",
        "Fees": "0.00",
        "Total": "-402.00",
    }
    bought = row(
        Action="BUY_TO_OPEN", Sub_Type="Buy to Open", Description="Bought 2 XYZ 10/24/25 Call 15.00 @ 2.00", **more
    )
    shut = delivered(
        "Forward Split",
        "SELL_TO_CLOSE",
        Date="2025-09-20T12:00:00+0000",
        Quantity="2",
        Value="450.00",
        Total="450.00",
        Description="Forward split: Close 2.0",
    )
    anew = delivered(
        "Forward Split",
        "BUY_TO_OPEN",
        Date="2025-09-20T12:00:00+0000",
        Quantity="4",
        Value="-450.00",
        Total="-450.00",
        Description="Forward split: Open 4.0",
    )
    sold = closing(
        Action="SELL_TO_CLOSE",
        Sub_Type="Sell to Close",
        Description="Sold 2 XYZ @ 1.50",
        Quantity="2",
        Value="300.00",
        Average_Price="150.00",
        Fees="0.00",
        Total="300.00",
    )
    trips = round_trips.round_trips(reader.read(file(tmp_path, bought, anew, shut, sold)).fills)
    leg = trips.trades[0].legs[0]
    assert (leg.quantity, leg.left, leg.gross, leg.open_value, leg.commission) == (
        2,
        2,
        D("100.00"),
        D("-200.00"),
        D("-1.00"),
    )


def test_the_multiplier_of_a_futures_option_comes_from_its_cash(tmp_path: Path) -> None:
    """
    If the multiplier column of a futures option says 1 and price and cash give 5, the multiplier is 5; without a price
    it is unknown, not 100.
    """
    sold = row(
        Symbol="./MESM6EXK6  260529P5800",
        Instrument_Type="Future Option",
        Description="Sold 1 /MESM6 EXK6 05/29/26 Put 5800.00 @ 82.5",
        Value="412.50",
        Average_Price="412.50",
        Commissions="-0.75",
        Fees="-0.46",
        Multiplier="1",
        Root_Symbol="./MESM6EXK6",
        Underlying_Symbol="/MESM6",
        Strike_Price="5800",
        Call_or_Put="PUT",
        Total="411.29",
    )
    fill = reader.read(file(tmp_path, sold)).fills[0]
    assert (fill.price, fill.multiplier, fill.value, fill.total) == (D("82.5"), 5, D("412.50"), D("411.29"))
    silent = sold.replace("Sold 1 /MESM6 EXK6 05/29/26 Put 5800.00 @ 82.5", "Sold")
    assert (
        reader.read(file(tmp_path, silent)).fills[0].multiplier,
        reader.read(file(tmp_path, silent)).fills[0].value,
    ) == (None, D("412.50"))


def test_dividends_and_deposits_are_other_cash(tmp_path: Path) -> None:
    """Money movements are counted as other cash, not as fills, with their total."""
    dividend = row(
        Type="Money Movement",
        Sub_Type="Dividend",
        Action="",
        Symbol="XYZ",
        Instrument_Type="Equity",
        Description="XYZ FUND",
        Value="8.93",
        Quantity="0",
        Average_Price="",
        Commissions="--",
        Fees="0.00",
        Multiplier="",
        Expiration_Date="",
        Strike_Price="",
        Call_or_Put="",
        Order_number="",
        Total="8.93",
    )
    found = reader.read(file(tmp_path, dividend, row()))
    assert [(m.kind, m.total) for m in found.moneys] == [("dividend", D("8.93"))] and len(found.fills) == 1


def test_other_account_events_are_read(tmp_path: Path) -> None:
    """
    A transfer, a cash merger, a future and a price in thirty-seconds are read; nothing is rejected, guessed or lost.
    """
    no_option = {
        "Multiplier": "",
        "Root_Symbol": "",
        "Underlying_Symbol": "",
        "Expiration_Date": "",
        "Strike_Price": "",
        "Call_or_Put": "",
    }
    stock = {
        "Symbol": "ABC",
        "Instrument_Type": "Equity",
        "Commissions": "0.00",
        "Fees": "0.00",
        "Quantity": "100",
    } | no_option
    bought = row(
        **(
            stock
            | {
                "Action": "BUY_TO_OPEN",
                "Sub_Type": "Buy to Open",
                "Description": "Bought 100 ABC @ 9.00",
                "Value": "-900.00",
                "Total": "-900.00",
            }
        )
    )
    merged = row(
        **(
            stock
            | {
                "Date": "2025-10-01T15:00:00+0100",
                "Type": "Receive Deliver",
                "Sub_Type": "Cash Merger",
                "Action": "",
                "Description": "Cash merger",
                "Value": "1,000.00",
                "Order_number": "",
                "Total": "1,000.00",
            }
        )
    )
    moved = merged.replace("Cash Merger", "ACAT").replace("ABC", "DEF").replace('"1,000.00"', "0.00")
    future = row(
        **(
            stock
            | {
                "Symbol": "/MESZ5",
                "Instrument_Type": "Future",
                "Action": "BUY",
                "Sub_Type": "Buy",
                "Description": "Bought 1 /MESZ5 @ 6700.0",
                "Value": "0.00",
                "Quantity": "1",
                "Commissions": "-1.25",
                "Fees": "-0.62",
                "Total": "-1.87",
            }
        )
    )
    thirty = row(
        Symbol="./ZNZ5 OZNX5 251024P112.5",
        Instrument_Type="Future Option",
        Description="Sold 1 /ZNZ5 OZNX5 10/24/25 Put 112.50 @ 0'15",
        Value="234.38",
        Multiplier="1",
        Total="233.26",
    )
    found = reader.read(file(tmp_path, bought, future, thirty, merged, moved))
    trips = round_trips.round_trips(found.fills)
    assert not found.refused and [(t.legs[0].symbol, t.legs[0].gross) for t in trips.stock] == [("ABC", 100)]
    assert [f.symbol for f in trips.before] == ["DEF"] and {leg.symbol for leg in trips.open} == {
        "/MESZ5",
        "./ZNZ5 OZNX5 251024P112.5",
    }
    assert (found.fills[2].price, found.fills[2].multiplier, found.fills[2].value) == (None, None, D("234.38"))


def test_a_repeated_header_is_not_a_row(tmp_path: Path) -> None:
    """In two concatenated files the header of the second is not a row."""
    found = reader.read(file(tmp_path, row(), COLUMNS, closing()))
    assert len(found.fills) == 2 and not found.refused


def test_the_older_layout(tmp_path: Path) -> None:
    """
    The older layout has costs as one positive figure, no order, New York times, and the underlying as symbol; it gives
    the same contract names.
    """
    rows = [
        "01/29/2021 10:15 PM,Receive Deliver,Expiration,UVXY,,,1,01/29/2021,14.5,P,,0.00,0,Removal of 1.0 "
        "UVXY 01/29/21 Put 14.50 due to expiration.,Individual...39",
        "01/15/2021 3:36 PM,Trade,Sell to Open,UVXY,Sell,Open,1,01/29/2021,14.5,P,0.56,1.152,56,Sold 1 UVXY "
        "01/29/21 Put 14.50 @ 0.56,Individual...39",
        "01/14/2021 3:30 PM,Trade,Buy to Open,THCB,Buy,Open,200,,,,13.6,0.16,-2720,Bought 200 THCB @ 13.60,"
        "Individual...39",
        "01/02/2021 10:00 PM,Money Movement,Deposit,,,,,,,,,0.00,1000,Wire,Individual...39",
    ]
    found = reader.read(file(tmp_path, *rows, columns=OLDER))
    assert found.layout == "tastyworks (older)" and not found.refused and "read as New York" in found.notes[0]
    stock, option, expiry = found.fills
    assert (
        option.symbol,
        option.multiplier,
        option.price,
        option.value,
        option.commission,
        option.fees,
        option.total,
    ) == ("UVXY 210129P00014500", 100, D("0.56"), 56, None, D("-1.152"), D("54.848"))
    assert option.at == datetime(2021, 1, 15, 20, 36, tzinfo=UTC) and (stock.instrument, stock.total) == (
        "stock",
        D("-2720.16"),
    )
    leg = round_trips.round_trips(found.fills).trades[0].legs[0]
    assert (
        (leg.gross, leg.commission, leg.fees, leg.ends) == (56, None, D("-1.152"), ["expiration"])
        and found.moneys[0].total == 1000
        and expiry.kind == "expiration"
    )


def test_the_apps_trades(tmp_path: Path) -> None:
    """
    The app's trades are read: camel case, a nested contract, trims in percent of the original size; trades never
    entered are skipped.
    """
    trade = {
        "id": "t1",
        "ticker": "SPX",
        "contract": {"strike": 6800, "expiry": "2026-03-10", "type": "C"},
        "state": "EXITED",
        "entryPrice": 5.0,
        "entryTime": "2026-03-10T10:00",
        "exitPrice": 6.0,
        "exitTime": "2026-03-10T11:00",
        "quantity": 4,
        "updates": [
            {"type": "trim", "timestamp": "2026-03-10T10:30", "price": 5.5, "trimPercent": 50},
            {"type": "update", "timestamp": "x"},
        ],
    }
    path = tmp_path / "trades.json"
    path.write_text(
        json.dumps(
            {
                "trades": [
                    trade,
                    {"id": "t2", "state": "WATCHING", "entryPrice": None},
                    trade | {"id": "t3", "state": "ENTERED", "exitPrice": None, "updates": []},
                ]
            }
        )
    )
    found = reader.read(path)
    trips = round_trips.round_trips(found.fills)
    assert [(t.name, t.legs[0].gross, t.legs[0].symbol, t.partial) for t in trips.trades] == [
        ("t1", 300, "SPX 260310C06800000", False)
    ]
    assert (
        [leg.lot for leg in trips.open] == ["t3"]
        and not found.refused
        and any("never entered" in n for n in found.notes)
    )
    for wrong, said in (
        ({"exitTime": "2026-03-10T09:00"}, "before entryTime"),
        ({"entryPrice": "5,0,0"}, "entryPrice is '5,0,0'"),
        ({"quantity": 0}, "quantity is 0"),
        ({"exitPrice": None}, "exitPrice is empty"),
        (
            {"updates": [{"type": "trim", "trimPercent": 500, "price": 1, "timestamp": "2026-03-10T10:30"}]},
            "a trim of 500 %",
        ),
    ):
        path.write_text(json.dumps([trade, trade | {"id": "bad"} | wrong]))
        assert said in "; ".join(reader.read(path).refused[0].reasons)


def test_plain_fills(tmp_path: Path) -> None:
    """
    Plain columns are read with sides like BTO and costs of either sign; a future without a multiplier is rejected.
    """
    content = (
        "time,symbol,side,qty,price,commission,order_id\n2026-03-10T10:00,XYZ 260320C00100000,BTO,2,"
        "1.50,1.30,a\n2026-03-10T11:00,XYZ 260320C00100000,STC,2,2.00,-1.30,b\n2026-03-10T12:00,./ESZ6 EW,"
        "BTO,1,2.00,1,c\n"
    )
    (tmp_path / "plain.csv").write_text(content)
    found = reader.read(tmp_path / "plain.csv")
    assert [(f.value, f.commission, f.paid) for f in found.fills] == [(-300, D("-1.30"), True), (400, D("-1.30"), True)]
    assert "its own multiplier" in found.refused[0].reasons[0]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1,990.00", "1990.00"),
        ("--", None),
        ("", None),
        ("(5.00)", "-5.00"),
        ("$1,234.5", "1234.5"),
        ("-$3", "-3"),
        (".5", "0.5"),
        (" 7 ", "7"),
        ("1e3", "1000"),
        (2.5, "2.5"),
        (None, None),
    ],
)
def test_numbers_are_read_exactly(cell: object, value: str | None) -> None:
    """Thousands separators, dollar signs, parentheses and dashes are understood; no digit is lost."""
    assert number(cell) == (None if value is None else D(value))


@pytest.mark.parametrize("cell", ["1,99.00", "abc", "1.2.3", "NaN", "inf", "1e400", "--5", "12 3", True, [1]])
def test_invalid_numbers_are_rejected(cell: object) -> None:
    """A text that is not a number is rejected; it does not become 0."""
    with pytest.raises(ValueError):
        number(cell)


def test_times_of_both_layouts() -> None:
    """A time with an offset is converted; without one it is New York time; 12 AM and 12 PM are midnight and noon."""
    assert moment("2025-10-23T17:33:29+0100") == datetime(2025, 10, 23, 16, 33, 29, tzinfo=UTC)
    assert [moment(t).hour for t in ("7/01/2021 12:00 AM", "7/01/2021 12:00 PM", "7/01/21")] == [4, 16, 4]
    for wrong in ("13/45/2021", "2021-02-30", "", None, "7/01/2021 13:00 PM", "2026-03-08T02:30"):
        with pytest.raises(ValueError):
            moment(wrong)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "cut.csv.gz",
            gzip.compress(("time,symbol,side,quantity,price\n" + "2026-01-05T10:00,AAA,buy,1,5\n" * 50).encode())[:-12],
            "truncated or damaged",
        ),
        ("deep.json", b"[" * 100_000, "nested too deeply"),
        ("deep2.json", b'[{"entry_price": ' + b"[" * 100_000, "nested too deeply"),
    ],
    ids=["cut", "deep", "deep inside"],
)
def test_damaged_and_deeply_nested_files_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, why: str
) -> None:
    """Each command exits with 70 and one sentence, without a traceback."""
    path = tmp_path / name
    path.write_bytes(content)
    for command in (["pnl", str(path)], ["import", str(path), "--kind", "fills"], ["import", str(path)]):
        code, (_, err) = main.main([*command, "--home", str(tmp_path / "home")]), capsys.readouterr()
        assert code == 70 and "Traceback" not in err and (why in err or command[-1] == str(path))


@pytest.mark.parametrize(
    ("side", "opens", "value"), [("Buy", "Sell", "-160.00"), ("Sell", "Buy", "160.00"), ("Buy", "Sell", "160.00")]
)
def test_a_futures_result_is_booked_at_its_close(tmp_path: Path, side: str, opens: str, value: str) -> None:
    """
    A future moves no cash when it is opened; its gain or loss is booked at the close, whatever the sign.

    For an option the sign must still fit the side.
    """
    future = {
        "Symbol": "/CLJ4",
        "Instrument_Type": "Future",
        "Multiplier": "",
        "Root_Symbol": "",
        "Underlying_Symbol": "",
        "Expiration_Date": "",
        "Strike_Price": "",
        "Call_or_Put": "",
        "Total": "",
        "Commissions": "-1.25",
        "Fees": "-1.82",
    }
    rows = [
        row(**future, Sub_Type=s, Action=s.upper(), Value=v, Order_number=n, Date=f"2023-03-04T14:1{n}:00+0100")
        for n, s, v in (("1", side, "0.00"), ("2", opens, value))
    ]
    found = reader.read(file(tmp_path, *rows))
    trips = round_trips.round_trips(found.fills)
    assert not found.refused and [(t.legs[0].gross, t.legs[0].commission, t.legs[0].fees) for t in trips.stock] == [
        (D(value), D("-2.50"), D("-3.64"))
    ]
    assert "Value is" in reader.read(file(tmp_path, row(), closing(Value="432.00", Total=""))).refused[0].reasons[0]


APP = {
    "id": "a",
    "ticker": "SPY",
    "contract": {"id": "x", "strike": 600, "expiry": "2026-01-16", "type": "C"},
    "state": "EXITED",
    "entryPrice": 5.0,
    "entryTime": "2026-01-05T15:00:00Z",
    "exitPrice": 5.5,
    "exitTime": "2026-01-05T16:00:00Z",
    "quantity": 10,
}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"updates": "x"}, "updates is 'x'; a list of objects"),
        ({"updates": [1]}, "updates is [1]"),
        ({"state": "FOO"}, "state is 'foo'; one of watching"),
        ({"state": "", "exitPrice": None}, "exitPrice is empty"),
        ({"contract": '{"strike": '}, "contract is"),
        ({"contract": {"strike": -1, "type": "Z"}}, "contract.strike is -1"),
        ({"contract": {"strike": 1, "type": "Z"}}, "contract.type is 'Z'"),
        ({"entryTime": "soon"}, "entryTime is 'soon'"),
        ({"exitTime": "soon"}, "exitTime is 'soon'"),
        ({"id": "good"}, "id is 'good', as in row 1: a duplicate"),
        ({"entryBid": 5.2, "entryAsk": 5.0}, "entryBid 5.2 is above entryAsk 5.0"),
    ],
)
def test_an_invalid_trade_of_the_app_is_rejected_with_its_field(
    tmp_path: Path, how: dict[str, object], said: str
) -> None:
    """Each reason names the field as in the file; the other trade is read."""
    (tmp_path / "t.json").write_text(json.dumps([APP | {"id": "good"}, APP | how]))
    found = reader.read(tmp_path / "t.json")
    assert [f.lot for f in found.fills] == ["good"] * 2 and said in "; ".join(found.refused[0].reasons)


def test_a_contract_as_json_text_is_read(tmp_path: Path) -> None:
    """A contract stored as JSON text, as databases do, is read like an object."""
    (tmp_path / "t.json").write_text(json.dumps([APP | {"contract": json.dumps(APP["contract"])}]))
    assert {f.symbol for f in reader.read(tmp_path / "t.json").fills} == {"SPY 260116C00600000"}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"Strike_Price": "16"}, "Strike Price is 16, but Symbol names 15"),
        ({"Expiration_Date": "10/31/25"}, "Expiration Date is 251031, but Symbol names 251024"),
        ({"Call_or_Put": "PUT"}, "Call or Put is P, but Symbol names C"),
    ],
)
def test_a_symbol_that_contradicts_its_columns_is_rejected(tmp_path: Path, how: dict[str, str], said: str) -> None:
    """The OCC symbol and the columns of a row must name the same contract."""
    found = reader.read(file(tmp_path, row(), row(**how)))
    assert len(found.fills) == 1 and said in found.refused[0].reasons[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("time,symbol,side,quantity,price,Price\n2026-01-05T10:00,AAA,buy,1,5,6\n", "two columns called price"),
        ("time,symbol,side,quantity,price\n", "a header and no rows"),
        (COLUMNS + "\n", "a header and no rows"),
        (OLDER + "\n\n", "a header and no rows"),
    ],
)
def test_a_header_without_rows_or_with_duplicates_is_rejected(tmp_path: Path, content: str, said: str) -> None:
    """Two columns with the same name are ambiguous; a header without rows is not a file of fills."""
    (tmp_path / "f.csv").write_text(content)
    with pytest.raises(ImportRefused, match=said):
        reader.read(tmp_path / "f.csv")


@pytest.mark.parametrize("column", ["instrument", "asset_type", "security_type", "kind", "instrument_type"])
@pytest.mark.parametrize("word", ["equity", "Stock", "ETF"])
def test_shares_are_recognised_by_any_type_column(tmp_path: Path, column: str, word: str) -> None:
    """Shares have a multiplier of 1, without a note about a multiplier of 100."""
    (tmp_path / "f.csv").write_text(
        f"time,symbol,side,quantity,price,{column}\n2026-01-05T10:00,AAA,buy,100,10,{word}\n"
    )
    found = reader.read(tmp_path / "f.csv")
    assert [(f.instrument, f.symbol, f.value) for f in found.fills] == [("stock", "AAA", -1000)] and not found.notes


def test_plain_columns_are_named_as_the_file_has_them(tmp_path: Path) -> None:
    """Reasons use the file's own column names."""
    (tmp_path / "f.csv").write_text(
        "id,entryTime,Exit Time,ticker,entryPrice,exitPrice,qty,Position\n1,x,2026-01-05T11:00,AAA,abc,,0,up"
        "\n2,2026-01-05T10:00,2026-01-05T11:00,AAA,5,,1,long\n3,2026-01-05T10:00,2026-01-05T11:00,AAA,5,6,1,long\n"
    )
    found = reader.read(tmp_path / "f.csv")
    values = "; ".join(found.refused[0].reasons)
    assert (
        all(name in values for name in ("entryTime is 'x'", "entryPrice is 'abc'", "qty is '0'", "Position is 'up'"))
        and "exitPrice is empty" in found.refused[1].reasons[0]
        and len(found.fills) == 2
    )
