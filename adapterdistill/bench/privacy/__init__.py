"""What an adapter gives away of the rows that trained it, and what hiding them costs."""
