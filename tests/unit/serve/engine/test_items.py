from adapterdistill.serve.engine.items import SearchItem


def test_an_item_s_text_is_not_in_its_repr() -> None:
    assert "secret" not in repr(SearchItem("acme", "secret"))
