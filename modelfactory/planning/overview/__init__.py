"""What a plan shows: layers, totals, rules, and what will probably not train."""
