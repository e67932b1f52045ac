"""The analog network as plain data: captured, folded, inspected."""
