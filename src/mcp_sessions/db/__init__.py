"""Everything that knows SQLAlchemy: tables, statements, repositories, engines and the schema's revision."""
